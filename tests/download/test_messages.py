"""What yt-dlp says is told apart: gone, hidden, later, ours. Texts are as yt-dlp printed them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avpipe.download import Status
from avpipe.download.messages import LONGEST, shortened, status_of

LOGIN = (
    "Use --cookies-from-browser or --cookies for the authentication. See  https://github.com/yt-dlp/yt-dlp/wiki/"
    "FAQ#how-do-i-pass-cookies-to-yt-dlp  for how to manually pass cookies."
)
LIMIT = (
    "has been rate-limited by YouTube for up to an hour. It is recommended to use `-t sleep` to add a delay between "
    "video requests to avoid exceeding the rate limit. For more information, refer to  https://github.com/yt-dlp/"
    "yt-dlp/wiki/Extractors#this-content-isnt-available-try-again-later"
)
RECORDED = {
    Status.BOT_CHECK: [
        f"[youtube] M7FH1dL51oU: Sign in to confirm you’re not a bot. {LOGIN}",
        f"[youtube] M7FH1dL51oU: Sign in to confirm you're not a bot. {LOGIN}",
    ],
    Status.RATE_LIMITED: [
        f"[youtube] 4HA6k17QjAo: Video unavailable. This content isn't available, try again later. The current session {LIMIT}",
        f"[youtube] SOWBtuuCDig: Video unavailable. This content isn’t available, try again later. Your account {LIMIT}",
        "[youtube] 4HA6k17QjAo: Unable to download API page: HTTP Error 429: Too Many Requests (caused by <HTTPError 429: Too Many Requests>)",
        "ffmpeg exited with code 8; [https @ 0x55d1] HTTP error 429 Too Many Requests",
    ],
    Status.UNAVAILABLE: [
        "[youtube] XyHm0BmtLHg: Video unavailable",
        "[youtube] qaImFO_DgAM: Video unavailable. This content isn’t available.",
        "[youtube] XyHm0BmtLHg: This video isn't available anymore",
        "[youtube] XyHm0BmtLHg: Video unavailable. This video has been removed by the uploader",
        "[youtube] XyHm0BmtLHg: This video has been removed for violating YouTube's policy on nudity or sexual content",
        "[youtube] XyHm0BmtLHg: Video unavailable. This video is no longer available because the YouTube account associated with this video has been terminated.",
        "[youtube] XyHm0BmtLHg: Video unavailable. This video is no longer available due to a copyright claim by a third party",
        "[youtube] XyHm0BmtLHg: Video unavailable. This video contains content from SME, who has blocked it on copyright grounds",
        "[youtube] XyHm0BmtLHg: This live event has ended.",
        "[youtube:truncated_id] 4HA6k: Incomplete YouTube ID 4HA6k. URL looks truncated.",
        "[generic] Unable to download webpage: HTTP Error 404: Not Found",
    ],
    Status.PRIVATE: [
        f"[youtube] XyHm0BmtLHg: Private video. Sign in if you've been granted access to this video. {LOGIN}",
        "[youtube] XyHm0BmtLHg: Join this channel to get access to members-only content like this video, and other exclusive perks.",
        "[youtube] XyHm0BmtLHg: This video is available to this channel's members on level: Fan (or any higher level).",
        "[youtube] XyHm0BmtLHg: This video requires payment to watch.",
        "[youtube] XyHm0BmtLHg: This video is only available to Music Premium members",
        "[youtube] XyHm0BmtLHg: This video is DRM protected",
        "[youtube] XyHm0BmtLHg: Video unavailable. This video is restricted. Please check the Google Workspace administrator and/or the network administrator restrictions.",
    ],
    Status.AGE_BLOCKED: [
        f"[youtube] XyHm0BmtLHg: Sign in to confirm your age. This video may be inappropriate for some users. {LOGIN}",
    ],
    Status.REGION_BLOCKED: [
        "[youtube] XyHm0BmtLHg: Video unavailable. The uploader has not made this video available in your country\nYou might want to use a VPN or a proxy server (with --proxy) to workaround.",
        "[youtube] XyHm0BmtLHg: Video unavailable. This video contains content from UMG, who has blocked it in your country on copyright grounds",
        "This video is not available from your location due to geo restriction",
    ],
    Status.NOT_YET: [
        "[youtube] XyHm0BmtLHg: This live event will begin in 3 hours.",
        "[youtube] XyHm0BmtLHg: Premieres in 2 days",
        "[youtube] XyHm0BmtLHg: We're processing this video. Check back later.",
    ],
    Status.NETWORK_ERROR: [
        "unable to download video data: HTTP Error 403: Forbidden",
        "[youtube] XyHm0BmtLHg: Unable to download webpage: HTTP Error 503: Service Unavailable",
        "[youtube] XyHm0BmtLHg: Unable to download webpage: [Errno -2] Name or service not known (caused by TransportError('[Errno -2] Name or service not known'))",
        "[youtube] XyHm0BmtLHg: Unable to download API page: ('Connection aborted.', ConnectionResetError(104, 'Connection reset by peer'))",
        "unable to download video data: The read operation timed out",
        "fragment 1 not found, unable to continue",
        "ffmpeg exited with code 183; [mov,mp4] moov atom not found",
        "Something that nobody has said before",
    ],
    Status.TOO_LARGE: [
        "unable to write data: [Errno 27] File too large",
        "ffmpeg exited with code -25",
    ],
    Status.NO_TOOL: [
        "You have requested downloading the video partially, but ffmpeg is not installed. Aborting",
        "[youtube] XyHm0BmtLHg: Requested format is not available. Use --list-formats for a list of available formats",
        "[youtube] XyHm0BmtLHg: Failed to extract any player response",
        "[youtube] XyHm0BmtLHg: The page needs to be reloaded.",
        "No supported JavaScript runtime could be found. Only deno is enabled by default; to use another runtime add  --js-runtimes RUNTIME[:PATH]",
        'could not find chrome cookies database in "/home/me/.config/google-chrome"',
    ],
}
MESSAGES = [(message, status) for status, messages in RECORDED.items() for message in messages]


@pytest.mark.parametrize(("message", "status"), MESSAGES, ids=[message[-60:] for message, _ in MESSAGES])
def test_a_recorded_message_has_its_status(message: str, status: Status) -> None:
    assert status_of(message) is status
    assert status_of(f"ERROR: {message}") is status
    assert status_of(shortened(message)) is status, "what is kept says as much"


@given(st.text())
def test_any_message_has_a_status_and_fits_a_table(message: str) -> None:
    assert status_of(message) in Status
    assert "\n" not in shortened(message)
    assert len(shortened(message)) <= LONGEST


def test_what_is_kept_is_the_sites_message_without_advice_on_a_command_line() -> None:
    private = f"ERROR: [youtube] XyHm0BmtLHg: Private video. Sign in if you've been granted access to this video. {LOGIN}"
    assert shortened(private) == "Private video. Sign in if you've been granted access to this video."
