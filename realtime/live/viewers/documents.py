"""What the page's server offers beside frames: the session's record with its images and clips, and a QR code.

All of it is subject to the access rules of the page, and its number per second is limited.
"""

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import asdict
from io import BytesIO
from typing import TYPE_CHECKING

from polypstream.realtime.live.viewers.access import Allowance, Role
from polypstream.realtime.live.viewers.viewer import Notice, Record

if TYPE_CHECKING:
    from aiohttp import web

_REQUESTS, _REQUESTS_PER_S = 400, 100.0
_NUMBERED = re.compile(r"record/(thumbnail|image|marked|clip)/([0-9]{1,6})")


class Documents:
    """Answers requests for documents; belongs to the server's event loop.

    Args:
        record: Returns the record of the session, if there is one.
        notice: Returns the newest message for the user.
        share: Returns the address for further screens, if there is one.
    """

    def __init__(
        self,
        *,
        record: Callable[[], Record | None],
        notice: Callable[[], Notice | None],
        share: Callable[[], str | None],
    ) -> None:
        self._record, self._notice, self._share = record, notice, share
        self._allowance = Allowance(at_once=_REQUESTS, per_second=_REQUESTS_PER_S)

    def has(self, name: str) -> bool:
        """Whether a path, without its first slash, is one of a document."""
        return name in {"record", "qr.svg"} or _NUMBERED.fullmatch(name) is not None

    async def response(self, name: str, role: Role) -> "web.StreamResponse":
        """Answer a permitted request for a document of this name."""
        from aiohttp import web

        if not self._allowance.take():
            return web.Response(status=429, text="there are too many requests; try again in a second")
        if name == "qr.svg":
            return self._code(role)
        record = self._record()
        if record is None:
            return web.Response(status=404, text="this session keeps no record")
        if name == "record":
            notice = self._notice()
            values = record.listing() | {"notice": None if notice is None else asdict(notice)}
            return web.Response(text=json.dumps(values), content_type="application/json")
        found = _NUMBERED.fullmatch(name)
        assert found is not None
        kind, number = found[1], int(found[2])
        if kind == "clip":
            return self._clip(record, number)
        create = {"thumbnail": record.thumbnail, "image": record.image, "marked": record.marked}[kind]
        jpeg = await asyncio.get_running_loop().run_in_executor(None, create, number)
        if jpeg is None:
            return web.Response(status=404, text=f"sighting {number} has no picture")
        return web.Response(body=jpeg, content_type="image/jpeg")

    def _clip(self, record: Record, number: int) -> "web.StreamResponse":
        from aiohttp import web

        path = record.clip_path(number)
        if path is None or not path.is_file():
            return web.Response(status=404, text=f"sighting {number} has no clip")
        headers = {"Content-Disposition": f'attachment; filename="{path.name}"', "Content-Type": "video/x-matroska"}
        return web.FileResponse(path, headers=headers)

    def _code(self, role: Role) -> "web.Response":
        """The address to watch only as a QR code, for viewers that may control, since it contains the token."""
        from aiohttp import web

        address = self._share() if role is Role.CONTROL else None
        if address is None:
            return web.Response(status=404, text="there is no address for other screens")
        try:
            import segno
        except ImportError:
            return web.Response(status=404, text="a QR code requires the extra [serve] in its current version")
        image = BytesIO()
        segno.make(address, micro=False).save(image, kind="svg", scale=8, border=2, xmldecl=False, omitsize=True)
        return web.Response(body=image.getvalue(), content_type="image/svg+xml")
