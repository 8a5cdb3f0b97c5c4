// A search as it stands, or one against a server. Names and texts only ever become text nodes.
"use strict";
const saved = JSON.parse(document.getElementById("state").textContent); // null: there is a server to ask
const at = (id) => document.getElementById(id);
const sent = new Map(); // pictures that the server was sent: its name for each -> width, height, boxes
const ticked = new Set(); // rows that are right, to be searched along
let parts = []; // of the person: {row} or {picture, box}
let answer = null;
let images = new Map(); // number -> image, those shown

function make(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const percent = (share) => `${100 * share}%`;
const sourceOf = (image, side) => image.source ?? (image.picture ? `picture/${image.picture}` : `image/${image.number}?side=${side}`);
const plural = (count, one, many) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

function place(element, image, [x, y, width, height]) {
  Object.assign(element.style, {
    left: percent(x / image.width), top: percent(y / image.height),
    width: percent(width / image.width), height: percent(height / image.height),
  });
}

// A whole picture with its boxes. `marks`: row -> class. Boxes are one stop of the Tab key; arrows go from one to the next.
function framed(image, { side = 640, marks = new Map(), tall = 17, onBox = null, label = "" } = {}) {
  const frame = make("div", { className: "frame", role: "group", "aria-label": label || image.name || "the picture" });
  frame.style.width = `min(100%, ${(tall * image.width) / image.height}rem)`;
  frame.style.aspectRatio = `${image.width} / ${image.height}`;
  const name = image.name ?? "the picture of the person";
  const picture = make("img", { alt: name, loading: "lazy", decoding: "async", draggable: false });
  picture.addEventListener("error", () => { picture.alt = `${name} cannot be shown: the file changed or is gone`; });
  picture.src = sourceOf(image, side);
  frame.append(picture);
  image.boxes.forEach(({ row, box }, number) => {
    const mark = marks.get(row) ?? "";
    const said = { hit: ", the hit", asked: ", the person searched for" }[mark] ?? "";
    const text = `Person ${number + 1} of ${image.boxes.length} in ${name}${said}`;
    const element = onBox && mark !== "asked"
      ? make("button", { type: "button", className: `box ${mark}`, "aria-label": `${text}: search`, title: "Search this person" })
      : make("span", { className: `box ${mark}`, role: "img", "aria-label": text });
    if (element.tagName === "BUTTON") element.addEventListener("click", () => onBox(row, box));
    place(element, image, box);
    frame.append(element);
  });
  roam(frame);
  return frame;
}

function roam(frame) {
  const boxes = [...frame.querySelectorAll("button.box")];
  const first = boxes.find((box) => box.classList.contains("hit")) ?? boxes[0];
  for (const box of boxes) box.tabIndex = box === first ? 0 : -1;
  frame.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const here = boxes.indexOf(document.activeElement);
    if (!step || here < 0) return;
    event.preventDefault();
    const next = boxes[(here + step + boxes.length) % boxes.length];
    document.activeElement.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
}

function cropped(image, [x, y, width, height]) {
  const crop = make("div", { className: "crop" });
  crop.style.aspectRatio = `${width} / ${Math.min(height, 3 * width)}`;
  const picture = make("img", { alt: "The person searched for", src: sourceOf(image, 1600) });
  Object.assign(picture.style, {
    width: percent(image.width / width), left: percent(-x / width),
    top: percent(-y / Math.min(height, 3 * width)),
  });
  crop.append(picture);
  return crop;
}

const imageOf = (part) => ("picture" in part ? sent.get(part.picture) : images.get(part.image));
const boxOf = (part) => part.box ?? imageOf(part).boxes.find((box) => box.row === part.row).box;

async function ask(address, options) {
  const reply = await fetch(address, options);
  if (!reply.ok) throw new Error((await reply.text()) || `The server said ${reply.status}.`);
  return reply.json();
}

function complain(error) {
  at("error").textContent = error ? error.message : "";
  at("error").hidden = !error;
}

async function search(wanted, { remember = true } = {}) {
  complain(null);
  at("results").classList.add("busy");
  at("announcement").textContent = "Searching";
  try {
    const body = JSON.stringify({ parts: wanted.map(({ row, picture, box }) => (picture ? { picture, box } : { row })) });
    const found = await ask("search", { method: "POST", body, headers: { "Content-Type": "application/json" } });
    parts = wanted;
    if (remember) history.pushState(wanted, "");
    show(found);
    if (remember) {
      at("results").focus({ preventScroll: true });
      at("results").scrollIntoView({ block: "start" });
    }
  } catch (error) {
    complain(error);
  }
  at("results").classList.remove("busy");
}

function learn(found) {
  for (const image of Object.values(found)) images.set(image.number, image);
}

function show(found) {
  answer = found;
  ticked.clear();
  learn(found.images);
  showPerson();
  at("verdict").textContent = found.verdict;
  at("verdict").className = found.threshold === null ? "warning" : "";
  at("notes").replaceChildren(...found.notes.map((note) => make("li", {}, note)));
  const hits = found.hits.map(hitCard);
  if (found.threshold !== null && hits.length) {
    const above = found.hits.filter((hit) => hit.same).length;
    hits.splice(above, 0, thresholdLine(found));
  }
  at("hits").replaceChildren(...hits);
  showTicked();
  at("announcement").textContent = `${plural(found.hits.length, "hit", "hits")}. ${found.verdict}`;
  document.body.classList.add("answered");
}

function thresholdLine(found) {
  const text = `Threshold ${found.threshold.toFixed(3)}: above it taken for the person, below it not told from a stranger`;
  return make("li", { className: "threshold" }, make("span", {}, text));
}

function marksFor(row) {
  const marks = new Map(answer ? answer.own.map((own) => [own, "asked"]) : []);
  for (const part of parts) if ("row" in part) marks.set(part.row, "asked");
  if (row !== undefined) marks.set(row, "hit");
  return marks;
}

const onBox = saved ? null : (row) => {
  const image = [...images.values()].find((each) => each.boxes.some((box) => box.row === row));
  at("large").close();
  search([{ row, image: image.number }]);
};

function hitCard(hit, number) {
  const image = images.get(hit.image);
  const card = make("li", { className: `card ${hit.same ? "same" : ""}` });
  card.append(make("div", { className: "stage" }, framed(image, { marks: marksFor(hit.row), onBox, label: `Hit ${number + 1}: ${image.name}` })));
  const text = make("div", { className: "text" });
  text.append(make("div", { className: "title" },
    make("span", { className: "rank" }, `${number + 1}`),
    make("span", { className: "name" }, image.name),
    make("span", { className: "likeness", title: "Similarity, at most 1" }, hit.similarity.toFixed(3))));
  if (hit.same !== null) {
    text.append(make("div", { className: "verdict" }, hit.same ? "same person" : "below the threshold"),
      make("div", { className: "hint" }, `${hit.strangers} find${hit.many ? "" : "s"} somebody this alike here`));
  }
  const foot = make("div", { className: "foot" });
  if (!saved) {
    const tick = make("input", { type: "checkbox" });
    tick.addEventListener("change", () => {
      if (tick.checked) ticked.add(hit.row);
      else ticked.delete(hit.row);
      showTicked();
    });
    foot.append(make("label", {}, tick, "It is this person"));
  }
  const enlarge = make("button", { type: "button", className: "plain", "aria-label": `Enlarge hit ${number + 1}` }, "Enlarge");
  enlarge.addEventListener("click", () => enlargeHit(number));
  foot.append(enlarge);
  text.append(foot);
  card.append(text);
  return card;
}

function showTicked() {
  at("again").hidden = !ticked.size;
  at("ticked").textContent = `${plural(ticked.size, "hit is", "hits are")} this person.`;
}

function showPerson() {
  at("file-label").textContent = parts.length ? "Choose another picture" : "Choose a picture";
  if (!parts.length) {
    const how = saved ? "" : "Click anybody in a picture, or choose a picture of your own.";
    at("person").replaceChildren(make("p", { className: "hint" }, how));
    return;
  }
  const crops = make("ul", { className: `crops ${parts.length === 1 ? "one" : ""}` });
  parts.forEach((part, number) => {
    const item = make("li", {}, cropped(imageOf(part), boxOf(part)));
    if (parts.length > 1 && !saved) {
      const leave = make("button", { type: "button", className: "plain", "aria-label": `Search without picture ${number + 1}` }, "Leave out");
      leave.addEventListener("click", () => search(parts.filter((other) => other !== part)));
      item.append(leave);
    }
    crops.append(item);
  });
  const whole = imageOf(parts[0]);
  const marked = "row" in parts[0]
    ? framed(whole, { marks: marksFor(), onBox, tall: 16 })
    : framed({ ...whole, boxes: [{ row: "asked", box: boxOf(parts[0]) }] }, { marks: new Map([["asked", "asked"]]), tall: 16 });
  at("person").replaceChildren(crops, marked, make("p", { className: "hint" }, whole.name ?? "a picture of your own"));
}

// The large view: a hit, or a picture in which somebody is to be chosen.
let enlarged = -1;
function openLarge(title, hint, frame, beside = []) {
  at("large-title").textContent = title;
  at("large-hint").textContent = hint;
  at("large-picture").replaceChildren(frame);
  at("beside").replaceChildren(...beside);
  at("drawing").hidden = true;
  at("steps").hidden = true;
  if (!at("large").open) at("large").showModal();
}

function enlargeHit(number) {
  enlarged = number;
  const hit = answer.hits[number];
  const image = images.get(hit.image);
  const hint = saved ? "" : "Choose anybody to search for them next.";
  const box = image.boxes.find((each) => each.row === hit.row).box;
  const beside = [[parts[0], "the person"], [{ image: hit.image, box }, `hit ${number + 1}: ${hit.similarity.toFixed(3)}`]].map(([part, said]) =>
    make("figure", {}, cropped(imageOf(part), boxOf(part)), make("figcaption", {}, said)));
  openLarge(`Hit ${number + 1}: ${image.name}`, hint, framed(image, { side: 1600, marks: marksFor(hit.row), tall: 40, onBox }), beside);
  at("steps").hidden = false;
  at("previous").disabled = number === 0;
  at("next").disabled = number === answer.hits.length - 1;
}

at("close").addEventListener("click", () => at("large").close());
at("previous").addEventListener("click", () => enlargeHit(enlarged - 1));
at("next").addEventListener("click", () => enlargeHit(enlarged + 1));

if (saved) {
  document.body.classList.add("finished");
  at("lead").textContent = "A finished search. Its pictures are inside this file; nothing is asked of any network.";
  parts = saved.query;
  for (const part of parts) if (part.picture) sent.set(part.picture, { ...part, boxes: [] });
  show(saved.answer);
}
