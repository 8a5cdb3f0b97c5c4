
// What needs the server: looking through all pictures, sending one, drawing a box, searching on.
const BOX_FIELDS = ["box-x", "box-y", "box-width", "box-height"];
let listed = 0;
let listing = 0; // the newest request for a list; older answers come too late
let drawn = null; // {image, box, element}

async function list(fresh) {
  const number = ++listing;
  const from = fresh ? 0 : listed;
  const found = await ask(`images?from=${from}&text=${encodeURIComponent(at("filter").value)}`).catch(complain);
  if (!found || number !== listing) return;
  for (const image of found.images) images.set(image.number, image);
  const cards = found.images.map((image) => make("li", { className: "card" },
    make("div", { className: "stage" }, framed(image, { tall: 11, onBox })), pictureText(image)));
  if (fresh) at("pictures").replaceChildren(...cards);
  else at("pictures").append(...cards);
  listed = from + found.images.length;
  at("count").textContent = plural(found.total, "picture", "pictures");
  at("more").hidden = listed >= found.total;
}

function pictureText(image) {
  const enlarge = make("button", { type: "button", className: "plain", "aria-label": `Enlarge ${image.name}` }, "Enlarge");
  enlarge.addEventListener("click", () => openLarge(image.name, "Choose anybody to search for them.", framed(image, { side: 1600, tall: 40, marks: marksFor(), onBox })));
  return make("div", { className: "text" }, make("div", { className: "name" }, image.name),
    make("div", { className: "foot" }, make("span", {}, plural(image.boxes.length, "person", "people")), enlarge));
}

async function send(file) {
  complain(null);
  at("announcement").textContent = "Looking for people in the picture";
  at("person").classList.add("busy");
  try {
    const found = await ask("pictures", { method: "POST", body: file });
    const image = { ...found, boxes: found.boxes.map((box, number) => ({ row: number, box })) };
    sent.set(found.picture, image);
    const choose = (_, box) => { at("large").close(); search([{ picture: found.picture, box }]); };
    const frame = framed(image, { side: 1600, tall: 38, onBox: choose, label: "The picture you chose" });
    const seen = { 0: "Nobody was found in it: draw a box around the person.", 1: "One person was found. Choose them, or draw another box." };
    openLarge("Who is it?", seen[image.boxes.length] ?? `${image.boxes.length} people were found. Choose one, or draw a box around somebody.`, frame);
    drawOn(frame, image);
  } catch (error) {
    complain(error);
    at("error").scrollIntoView({ block: "center" });
  }
  at("person").classList.remove("busy");
  at("file").value = "";
}

// A box drawn with the pointer, moved with arrows and sized with Shift and arrows, or typed.
function drawOn(frame, image) {
  drawn = { image, box: null, element: null, frame };
  frame.classList.add("draws");
  at("drawing").hidden = false;
  for (const name of BOX_FIELDS) at(name).value = "";
  at("search-box").disabled = true;
  let start = null;
  const point = (event) => {
    const ground = frame.getBoundingClientRect();
    const inside = (share) => Math.min(1, Math.max(0, share));
    return [inside((event.clientX - ground.left) / ground.width) * image.width, inside((event.clientY - ground.top) / ground.height) * image.height];
  };
  frame.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || event.target.closest("button")) return;
    event.preventDefault();
    frame.setPointerCapture(event.pointerId);
    start = point(event);
  });
  frame.addEventListener("pointermove", (event) => {
    if (!start) return;
    const end = point(event);
    draw([Math.min(start[0], end[0]), Math.min(start[1], end[1]), Math.abs(end[0] - start[0]), Math.abs(end[1] - start[1])]);
  });
  for (const name of ["pointerup", "pointercancel"]) frame.addEventListener(name, () => { start = null; });
}

function draw(box, typed = false) {
  const { image, frame } = drawn;
  const [width, height] = [Math.min(box[2], image.width), Math.min(box[3], image.height)];
  drawn.box = [Math.min(Math.max(0, box[0]), image.width - width), Math.min(Math.max(0, box[1]), image.height - height), width, height];
  if (!drawn.element) {
    drawn.element = make("div", { className: "box drawn", tabIndex: 0, role: "group", "aria-label": "The drawn box: arrows move it, Shift and arrows size it" });
    drawn.element.addEventListener("keydown", nudge);
    frame.append(drawn.element);
  }
  place(drawn.element, image, drawn.box);
  if (!typed) BOX_FIELDS.forEach((name, number) => { at(name).value = Math.round(drawn.box[number] * 10) / 10; });
  at("search-box").disabled = width < 4 || height < 4;
}

function nudge(event) {
  const [x, y] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
  if (!x && !y) return;
  event.preventDefault();
  const step = Math.max(1, Math.max(drawn.image.width, drawn.image.height) / 100);
  const [left, top, width, height] = drawn.box;
  if (event.shiftKey) draw([left, top, Math.max(4, width + step * x), Math.max(4, height + step * y)]);
  else draw([left + step * x, top + step * y, width, height]);
}

for (const name of BOX_FIELDS) {
  at(name).addEventListener("input", () => {
    const box = BOX_FIELDS.map((field) => at(field).valueAsNumber);
    if (box.every(Number.isFinite)) draw(box, true);
  });
}
at("search-box").addEventListener("click", () => {
  at("large").close();
  search([{ picture: drawn.image.picture, box: drawn.box }]);
});
at("file").addEventListener("change", () => { if (at("file").files[0]) send(at("file").files[0]); });
at("again").addEventListener("submit", (event) => {
  event.preventDefault();
  const more = [...ticked].map((row) => ({ row, image: answer.hits.find((hit) => hit.row === row).image }));
  search([...parts, ...more]);
});
at("more").addEventListener("click", () => list(false));
let waiting = 0;
at("filter").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(() => list(true), 200); });

const carriesFile = (event) => event.dataTransfer?.types.includes("Files");
addEventListener("dragover", (event) => { if (carriesFile(event)) { event.preventDefault(); at("drop").hidden = false; } });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) at("drop").hidden = true; });
addEventListener("drop", (event) => {
  if (!carriesFile(event)) return;
  event.preventDefault();
  at("drop").hidden = true;
  send(event.dataTransfer.files[0]);
});
addEventListener("popstate", (event) => { if (event.state) search(event.state, { remember: false }); else location.reload(); });

at("lead").textContent = "Choose a person: the pictures of this gallery are ranked by how alike somebody in them looks. Nothing leaves this machine.";
showPerson();
list(true);
