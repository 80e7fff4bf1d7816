"""A pod's volumes as folders, and where each container finds them.

Called by `pod` once before its containers start. There is no mount namespace:
`places` maps a container's mount paths to the real folders, and `expand` puts
these into its command and environment.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from .api import Api, ApiError
from .expand import NotConfigured, field

Json = dict[str, Any]
Files = dict[str, bytes]
Fetch = Callable[[str, str], Awaitable[Files | None]]
"""(kind, name) → the files of a ConfigMap or Secret; None when it is not there."""

TOKEN_S = 86_400


def fetcher(api: Api, namespace: str) -> Fetch:
    """A `Fetch` of one namespace."""

    async def fetch(kind: str, name: str) -> Files | None:
        try:
            found = await api.get(f"/api/v1/namespaces/{namespace}/{kind.lower()}s/{name}")
        except ApiError as error:
            if error.code == 404:
                return None
            raise
        encoded = found.get("binaryData" if kind == "ConfigMap" else "data") or {}
        files = {key: base64.b64decode(value) for key, value in encoded.items()}
        if kind == "ConfigMap":
            files.update((key, text.encode()) for key, text in (found.get("data") or {}).items())
        return files

    return fetch


async def token(api: Api, pod: Json, audience: str | None = None) -> str:
    """A token of the pod's service account that ends with the pod."""
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    account = pod["spec"].get("serviceAccountName", "default")
    bound = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": pod["metadata"]["uid"]}
    spec: Json = {"expirationSeconds": TOKEN_S, "boundObjectRef": bound}
    spec["audiences"] = [audience] if audience else []
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
    answer = await api.post(
        path, {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    )
    return str(answer["status"]["token"])


async def materialise(pod: Json, folder: Path, api: Api) -> dict[str, Path]:
    """Fill a folder for each volume of the pod; return them by volume name."""
    fetch = fetcher(api, pod["metadata"]["namespace"])
    made: dict[str, Path] = {}
    for volume in pod["spec"].get("volumes", ()):
        made[volume["name"]] = await _one(pod, volume, folder / volume["name"], fetch, api)
    return made


async def refresh(pod: Json, folder: Path, api: Api, every_s: float) -> None:
    """Keep ConfigMap and Secret volumes as the API server has them, until cancelled."""
    fetch = fetcher(api, pod["metadata"]["namespace"])
    kept = [
        each for each in pod["spec"].get("volumes", ()) if {"configMap", "secret"} & each.keys()
    ]
    while kept:
        await asyncio.sleep(every_s)
        for volume in kept:
            try:
                await _one(pod, volume, folder / volume["name"], fetch, api)
            except (TimeoutError, NotConfigured, ApiError, OSError):
                continue  # the old content stays, as on a real node


def places(container: Json, folders: Mapping[str, Path]) -> dict[str, str]:
    """The container's mount paths and the real paths that stand for them."""
    found: dict[str, str] = {}
    for mount in container.get("volumeMounts", ()):
        real = folders[mount["name"]]
        if mount.get("subPath"):
            real = real / mount["subPath"]
            if not real.exists():
                real.mkdir(parents=True)
        found[mount["mountPath"].rstrip("/")] = str(real)
    return found


async def _one(pod: Json, volume: Json, folder: Path, fetch: Fetch, api: Api) -> Path:
    if "hostPath" in volume:
        return Path(volume["hostPath"]["path"])
    if "emptyDir" in volume:
        return _made(folder)
    _made(folder)
    if "projected" in volume:
        for source in volume["projected"].get("sources", ()):
            _write(folder, await _files(pod, source, fetch, api))
        return folder
    _write(folder, await _files(pod, volume, fetch, api))
    return folder


async def _files(pod: Json, source: Json, fetch: Fetch, api: Api) -> Files:
    """The files of one volume source; plain volumes and projections differ in a name only."""
    if "serviceAccountToken" in source:
        asked = source["serviceAccountToken"]
        return {asked["path"]: (await token(api, pod, asked.get("audience"))).encode()}
    if "downwardAPI" in source:
        items = source["downwardAPI"].get("items", ())
        return {
            item["path"]: field(pod, item["fieldRef"]["fieldPath"]).encode()
            for item in items
            if "fieldRef" in item
        }
    for kind, key in (("ConfigMap", "configMap"), ("Secret", "secret")):
        if key in source:
            return await _selected(kind, source[key], fetch)
    raise NotConfigured(f"volume source not known to this node: {sorted(source)}")


async def _selected(kind: str, source: Json, fetch: Fetch) -> Files:
    name = source.get("secretName") or source["name"]
    data = await fetch(kind, name)
    if data is None:
        if source.get("optional"):
            return {}
        raise NotConfigured(f'{kind.lower()} "{name}" not found')
    if not source.get("items"):
        return data
    absent = [item["key"] for item in source["items"] if item["key"] not in data]
    if absent and not source.get("optional"):
        raise NotConfigured(f'{kind.lower()} "{name}" has no key {absent[0]}')
    return {item["path"]: data[item["key"]] for item in source["items"] if item["key"] in data}


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write(folder: Path, files: Files) -> None:
    """Write what differs, each file in one step, so that a reader never sees half."""
    for name, content in files.items():
        path = folder / name
        if path.exists() and path.read_bytes() == content:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.new")
        fresh.write_bytes(content)
        fresh.replace(path)
