#!/usr/bin/env python3
"""Writes what the fuzzer begins with: a few sound inputs of each kind, below the directory that is named."""

import bz2
import gzip
import io
import json
import lzma
import pathlib
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
MINISIGN = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"


def bencode(value):
    """Encodes numbers, bytes, lists and dictionaries."""
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, bytes):
        return b"%d:%s" % (len(value), value)
    if isinstance(value, list):
        return b"l" + b"".join(map(bencode, value)) + b"e"
    return b"d" + b"".join(bencode(key) + bencode(value[key]) for key in sorted(value)) + b"e"


def torrents():
    """Single-file and multi-file info dictionaries, and whole torrents with web seeds."""
    single = {b"name": b"a", b"length": 40000, b"piece length": 16384, b"pieces": b"x" * 60, b"private": 1}
    files = [{b"length": 20000, b"path": [b"d", b"f"]}, {b"length": 5, b"path": [b"g"]}]
    several = {b"name": b"dist", b"files": files, b"piece length": 16384, b"pieces": b"x" * 40}
    for info in single, several:
        yield bencode(info)
        yield bencode({b"announce": b"http://127.0.0.1:1/announce", b"info": info, b"url-list": [b"http://x/"], b"httpseeds": [b"http://y"]})


def messages():
    """A handshake and messages of every kind."""
    shake = b"\x13BitTorrent protocol" + b"\0\0\0\0\0\x10\0\x04" + bytes(20) + b"-FD0100-abcdefghijkl"
    extended = bencode({b"m": {b"fd_push": 1, b"ut_metadata": 2}, b"fd_seed": 1, b"p": 6881, b"reqq": 100, b"fd_zone": 1, b"fd_rank": 2})
    bodies = [b"", b"\0", b"\1", b"\2", b"\4" + bytes(4), b"\5" + bytes(13), b"\6" + bytes(12), b"\7" + bytes(9), b"\x14\0" + extended]
    yield shake + b"".join(struct.pack(">I", len(body)) + body for body in bodies)


def frames():
    """Messages between controller and agent, plain and compressed."""
    for message in (
        {"type": "alive"},
        {"msg": "stop", "reason": "finished"},
        "ping",
        {"job": {"job": "status", "deploy_to": "/srv/shop"}},
    ):
        body = json.dumps(message).encode()
        yield struct.pack(">I", len(body)) + body
        short = zlib.compress(body)
        yield struct.pack(">I", len(short) | 1 << 31) + short


def tar(shape):
    """A small archive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=shape) as archive:
        directory = tarfile.TarInfo("bin")
        directory.type, directory.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(directory)
        program = tarfile.TarInfo("bin/" + "long" * 40)
        program.size, program.mode = 6, 0o755
        archive.addfile(program, io.BytesIO(b"hello\n"))
        link = tarfile.TarInfo("latest")
        link.type, link.linkname = tarfile.SYMTYPE, "bin"
        archive.addfile(link)
    return out.getvalue()


def archives():
    """The first byte is the kind: tar, zst, gz, xz, bz2, zip."""
    plain = tar(tarfile.GNU_FORMAT)
    yield b"\0" + plain
    yield b"\0" + tar(tarfile.PAX_FORMAT)
    yield b"\1" + subprocess.run(["zstd", "-q", "-c"], input=plain, stdout=subprocess.PIPE, check=True).stdout
    yield b"\2" + gzip.compress(plain, mtime=0)
    yield b"\3" + lzma.compress(plain)
    yield b"\4" + bz2.compress(plain)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (("bin/run", "hello\n" * 20), ("empty/", "")):
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    yield b"\5" + out.getvalue()


def signatures():
    """A statement, a signature and a key."""
    digest = "0f" * 32
    times = '"created":"2026-11-20T10:00:00Z","expires":"2026-12-20T10:00:00Z"'
    statement = f'{{"fleetdrop_manifest":1,"app":"shop","version":"2.4.1",{times},"digest":"{digest}","size":10,"files":3}}'
    ssh = "-----BEGIN SSH SIGNATURE-----\nU1NIU0lHAAAAAQAAADMAAAALc3NoLWVkMjU1MTkAAAAg\n-----END SSH SIGNATURE-----\n"
    mini = "untrusted comment: x\nRUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=\n"
    mini += "trusted comment: y\ny/rUw2y8/hOUYjZU71eHp/Wo1KZ40fGy2VJEDl34XMJM+TX48Ss/17u3IvIfbVR1FkZZSNCisQbuQY+bHwhEBg==\n"
    for signature, key in ((ssh, KEY), (mini, MINISIGN)):
        yield "\0".join((statement, signature, key)).encode()


def texts():
    """What is read as text."""
    yield "inventory", (path.read_bytes() for path in ROOT.glob("examples/**/inventor*/*.y*ml"))
    yield "inventory", (path.read_bytes() for path in ROOT.glob("examples/**/inventory.y*ml"))
    yield "playbook", (path.read_bytes() for path in ROOT.glob("playbooks/*.yaml"))
    yield "patterns", [b"all:!db-a:&web", b"web[01:03]*,~db-[ab]", b"web[0]:web[-1]"]
    hashed = "|1|F1E1KeoE/eEWhi10WpGv4OdiO6Y=|3988QV0VE8wmZL7suNrYQLITLCg="
    known = f"web*.example.com,!web2.example.com {KEY}\n@revoked * {KEY}\n@cert-authority [*]:2222 {KEY}\n{hashed} {KEY}\n"
    yield "known_hosts", [known.encode()]
    yield "allowed_signers", [f'ada@x,"b c" namespaces="git,fleet*",valid-after="20260101Z" {KEY} note\n'.encode()]
    yield "credentials", [b"machine store.example.com login ada password secret\nheader store.example.com Authorization: Bearer x\ndefault login a password b\n"]
    query = "info_hash=%124Vx%9A%BC%DE%F1%23Eg%89%AB%CD%EF%124Vx%9A&peer_id=-FD0100-abcdefghijkl&port=6881&left=0&event=started&compact=1&numwant=5"
    yield "tracker_query", [query.encode()]
    yield "origin_reply", [b"bytes 0-99/1000\n100\nidentity\n7\n12", b"bytes */5\n\ngzip\n\n"]


def main():
    place = pathlib.Path(sys.argv[1])
    shutil.rmtree(place, ignore_errors=True)
    reply = {b"interval": 30, b"min interval": 5, b"peers": b"\x7f\0\0\1\x1a\xe1", b"peers6": bytes(18)}
    slow = {b"failure reason": b"no", b"peers": [{b"ip": b"127.0.0.1", b"port": 1, b"peer id": b"x" * 20}]}
    kinds = [*texts(), ("metainfo", torrents()), ("messages", messages()), ("frames", frames()), ("archives", archives())]
    kinds += [("signatures", signatures()), ("tracker_reply", [bencode(reply), bencode(slow)])]
    for name, inputs in kinds:
        directory = place / name
        directory.mkdir(parents=True, exist_ok=True)
        for content in inputs:
            (directory / f"seed-{len(list(directory.iterdir()))}").write_bytes(content)


main()
