"""One libtorrent peer for tests: says `ready`, waits for a line on standard input, transfers, says `complete`, serves until it ends.

Usage: libtorrent_node.py [--settings default|tuned] seed|host TORRENT DIRECTORY ADDRESS:PORT [PEER_ADDRESS:PORT ...]

Trackers in the torrent are used; peers given here are connected to besides. A seed has its file in DIRECTORY already, and says `ready`
when it serves it. Ends when its standard input is closed.

`tuned` is libtorrent's own preset for high performance, which sets what its tuning guide says: TCP preferred, upload slots fixed and
unlimited, higher watermarks of the send buffers, more connections, shorter timeouts.
"""

import sys
import time

import libtorrent as lt


def session(listen, settings):
    return lt.session(settings | {
        "listen_interfaces": listen,
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "alert_mask": lt.alert.category_t.status_notification | lt.alert.category_t.error_notification,
        # Peers of a test share addresses and are all on private networks.
        "allow_multiple_connections_per_ip": True,
        # A private network's rate would otherwise be limited by what uTP measures.
        "enable_outgoing_utp": False,
        "enable_incoming_utp": False,
        # A tracker on loopback is refused otherwise, being a way into the local network.
        "ssrf_mitigation": False,
    })


def wait(condition, what, seconds):
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            sys.exit(f"{what}: not within {seconds} s")
        time.sleep(0.02)


def connect(handle, peers):
    for peer in peers:
        address, port = peer.rsplit(":", 1)
        handle.connect_peer((address, int(port)))


def main():
    arguments = sys.argv[1:]
    settings = {}
    if arguments[0] == "--settings":
        settings = {"default": {}, "tuned": lt.high_performance_seed()}[arguments[1]]
        arguments = arguments[2:]
    role, torrent, directory, listen, *peers = arguments
    running = session(listen, settings)
    wait(running.is_listening, "listening", 10)
    params = lt.add_torrent_params()
    params.ti = lt.torrent_info(torrent)
    params.save_path = directory
    # Start at once and stay started.
    params.flags &= ~(lt.torrent_flags.paused | lt.torrent_flags.auto_managed)
    if role == "seed":
        handle = running.add_torrent(params)
        wait(lambda: handle.status().is_seeding, "checking the seed's file", 60)
        connect(handle, peers)
        print("ready", flush=True)
        sys.stdin.readline()
    else:
        print("ready", flush=True)
        sys.stdin.readline()
        handle = running.add_torrent(params)
        connect(handle, peers)
        wait(lambda: handle.status().is_seeding, "the download", 3600)
        handle.flush_cache()
        print("complete", flush=True)
    while sys.stdin.readline():
        pass


main()
