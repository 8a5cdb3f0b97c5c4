"""What `diffps search` says to whoever asks nothing of it, and how it reads a box."""

from diffps.errors import ConfigError

EXPLAINED = """Find one person: name a picture that shows the person, and a folder of pictures to search.

    diffps search query.jpg --in photos --head results/train/head

Where several people are in the picture, a copy with their numbers is written and --person N says which; --box
x,y,width,height draws one's own. What the head finds in the folder is kept in data/galleries: the next search reads no
picture again. Without --in the test split is searched, as `diffps evaluate` left it. So after `make demo`:

    diffps search data/streets/frames/c1s2_000001.jpg --person 1

--serve opens a page instead, on this machine alone, where anybody can be clicked. `diffps search --help` lists the
rest; docs/find-a-person.md goes through it step by step, docs/search.md says what the answers are worth."""


def box_of(text: str) -> tuple[float, ...]:
    """ "120,80,60,190" as numbers. Raises ConfigError."""
    try:
        values = tuple(float(part) for part in text.split(","))
        if len(values) == 4:
            return values
    except ValueError:
        pass
    raise ConfigError(f"--box {text}: expected x,y,width,height in pixels, such as 120,80,60,190")
