"""Who may ask: somebody who knows the address, from the page that it leads to, under this machine's own name."""

import hmac
from collections.abc import Collection
from email.message import Message
from urllib.parse import urlsplit


def place_asked(command: str, path: str, headers: Message, hosts: Collection[str], token: str) -> str | None:
    """What is asked for below the token, or None for strangers.

    ``hosts``: the names, with the port, under which a browser of this machine comes. Another name is that of a page
    elsewhere which had it lead here; another origin, or none for a POST, is another page.
    """
    parts = urlsplit(path).path.split("/", 2)
    # A whole address in place of a path is a proxy's way, and names a host of its own.
    if not path.startswith("/") or len(parts) < 3 or not hmac.compare_digest(parts[1].encode(), token.encode()):
        return None
    named = headers.get_all("Host", [])
    if len(named) != 1 or named[0] not in hosts:
        return None
    origin, place = headers.get("Origin"), parts[2]
    if origin is not None:
        return place if origin in {f"http://{host}" for host in hosts} else None
    # A link elsewhere may lead to the page; nothing else is anybody else's to ask for.
    from_here = headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin")
    return place if command == "GET" and (from_here or not place) else None
