"""Runs a local runtime with one replica and says so; to be killed by its test."""

import asyncio
import sys
from pathlib import Path

from tests.controller.runtimes.rigs import a_local_rig, the_one


async def main(folder: Path) -> None:
    async with a_local_rig(folder) as rig:
        await rig.runtime.start(rig.service, 1)
        await rig.get_ready()
        await rig.runtime.admit(rig.service, the_one(rig).id)
        sys.stdout.write("serving\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
