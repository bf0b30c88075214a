"""The messages of yt-dlp and YouTube, and what each means for a clip.

Only the message distinguishes a deleted video from a rate limit, because yt-dlp raises the same exception for nearly
everything. Messages change. A message that no pattern matches counts as a failure for now, so that no clip is given up
because of a new wording. The message is in the table of outcomes.
"""

import re

from avpipe.clips import Status
from avpipe.web import BOT_CHECK

LONGEST = 500
"""Characters of a message that are kept."""

_HINT = re.compile(
    r"\s*(?:Use --cookies-from-browser or --cookies|See +https?://|For more information|You might want to use a VPN"
    r"|; please report this issue|It is recommended to use `-t sleep`|Use --list-formats).*",
    re.DOTALL,
)
"""Advice about yt-dlp's command line, which does not apply here."""

_PATTERNS: tuple[tuple[str, Status], ...] = (
    # Messages that concern all videos come first: they may contain words that mean something else for a single video.
    (BOT_CHECK, Status.BOT_CHECK),
    (r"HTTP Error 429|429 Too Many Requests|rate-limited|try again later\b", Status.RATE_LIMITED),
    # Our own limits, programs and cookies.
    (r"address that is not public|redirected to a private", Status.REFUSED_URL),
    (r"File too large|larger than max-filesize|Errno 27\b|exited with code (?:-25|153)\b", Status.TOO_LARGE),
    (r"ends before the clip's interval", Status.TOO_SHORT),
    (r"ff(?:mpeg|probe) (?:is |could )?not (?:be )?(?:found|installed)", Status.NO_TOOL),
    (r"JavaScript runtime could be found|challenge solving failed|Signature solving failed", Status.NO_TOOL),
    (r"could not (?:find|copy).*cookies|cookies? (?:file|database).*(?:not found|cannot)", Status.NO_TOOL),
    (r"failed to (?:load|decrypt).*cookies|does not look like a Netscape format", Status.NO_TOOL),
    # Videos that are not shown here, to us, or yet.
    (
        r"in your (?:country|location)|from your location|geo.?restrict|blocked it in your",
        Status.REGION_BLOCKED,
    ),
    (r"confirm your age|age.?restricted|inappropriate for some users", Status.AGE_BLOCKED),
    (
        r"live event will begin|premieres? (?:in|will|starts)|processing this video|live stream.*offline",
        Status.NOT_YET,
    ),
    (r"\bis live\b|still running|is being processed|has not started", Status.NOT_YET),
    (r"private video|video is private|granted access", Status.PRIVATE),
    (
        r"members?.only|channel's members|join this channel|Music Premium|requires payment|purchase",
        Status.PRIVATE,
    ),
    (
        r"DRM protected|administrator restrictions|registered users|log ?in required|HTTP Error 401",
        Status.PRIVATE,
    ),
    # Gone.
    (r"account.*terminated|has been removed|removed by|no longer available|copyright", Status.UNAVAILABLE),
    (r"channel (?:is not|isn't) available|does not exist|recording is not available", Status.UNAVAILABLE),
    (
        r"live event has ended|unplayable|playback on other websites|HTTP Error (?:404|410)",
        Status.UNAVAILABLE,
    ),
    (
        r"video (?:is |has been )?(?:unavailable|deleted|not available)|video isn't available",
        Status.UNAVAILABLE,
    ),
    (r"content (?:is not|isn't) available\b", Status.UNAVAILABLE),
    (r"incomplete YouTube ID|unsupported URL|is not a valid URL|looks truncated", Status.UNAVAILABLE),
    # The program, not the video: YouTube changed something, and a newer yt-dlp may know it.
    (r"requested format is not available|no video formats found|only images are available", Status.NO_TOOL),
    (r"failed to extract any player response|page needs to be reloaded|unable to extract", Status.NO_TOOL),
)
_KNOWN = tuple((re.compile(pattern, re.IGNORECASE | re.DOTALL), status) for pattern, status in _PATTERNS)


def status_of(message: str) -> Status:
    """What a message says became of the clip; one that is not known is `Status.NETWORK_ERROR`, and may pass."""
    plain = message.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return next((status for pattern, status in _KNOWN if pattern.search(plain)), Status.NETWORK_ERROR)


def shortened(message: str) -> str:
    """The message in one line, without yt-dlp's name, the video's id and advice on its command line."""
    text = " ".join(message.split())
    text = re.sub(r"^(?:ERROR: )?(?:\[[\w:+-]+\] (?:[A-Za-z0-9_-]{1,64}: )?)?", "", text)
    text = "".join(character for character in _HINT.sub("", text) if character.isprintable())
    return text[:LONGEST].strip()
