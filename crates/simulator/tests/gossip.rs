//! Gossip by itself: many seeds in little time, each the same twice.

use simulator::gossip::play;
use simulator::marks::{Mark, Marks};
use simulator::run::keep_panics_quiet;
use simulator::trace::Trace;

#[test]
fn members_agree_whatever_went_wrong() {
    keep_panics_quiet();
    let mut marks = Marks::default();
    for seed in 0..400 {
        let played = play(seed, &mut Trace::new(false));
        assert_eq!(played.violation, None, "seed {seed}");
        assert!(played.checks > 0);
        marks.add(&played.marks);
    }
    for mark in [
        Mark::GossipDenied,
        Mark::GossipReturned,
        Mark::GossipWrongDeath,
        Mark::GossipLeft,
        Mark::GossipSlept,
        Mark::GossipByStream,
        Mark::GossipRefused,
        Mark::GossipClockApart,
    ] {
        assert!(marks.count(mark) > 0, "{mark:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_gossip() {
    keep_panics_quiet();
    let traced = |seed| {
        let mut trace = Trace::new(true);
        let played = play(seed, &mut trace);
        (trace.to_text(), trace.hash(), played.checks)
    };
    for seed in 0..12 {
        let first = traced(seed);
        assert!(first.0.contains("Joined"), "seed {seed} tells of members");
        assert_eq!(first, traced(seed), "seed {seed}");
    }
    assert_ne!(traced(1).1, traced(2).1);
}
