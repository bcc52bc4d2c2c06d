use std::time::Duration;

use super::*;

#[test]
fn a_host_that_freezes_during_a_push_does_not_keep_the_others_choked() {
    let (frozen, other) = (PeerKey(1), PeerKey(2));
    let at = Duration::from_millis;
    let mut seed = Policy::new(PolicyConfig::new(4, true, 1), PieceSet::full(4));
    for key in [frozen, other] {
        seed.peer_joined(at(0), key, PeerTraits { fleet: true, seed: false });
    }
    let (mut now, mut unchoked) = (0, Vec::new());
    while now < 5000 {
        while let Some(action) = seed.next_action() {
            match action {
                Action::Send { peer, piece, .. } if peer == other => {
                    seed.sent(at(now + 50), peer, piece);
                    seed.peer_has(at(now + 60), peer, piece);
                }
                Action::Unchoke(peer) => unchoked.push((now, peer)),
                _ => {}
            }
        }
        now += 100;
        seed.tick(at(now));
    }
    let when = unchoked.iter().find(|(_, peer)| *peer == other).map(|(now, _)| *now);
    assert!(when.is_some_and(|now| (500..2500).contains(&now)), "{unchoked:?}");
}
