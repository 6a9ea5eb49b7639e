//! Ring, bounded ring and Maglev: how even they are and how much moves when the list changes. The
//! bounds are what theory and the papers lead to expect, with a little room.

use base::NodeId;
use quorate_cluster::placement::maglev::{Maglev, Refused};
use quorate_cluster::placement::ring::{BoundedRing, Ring};
use quorate_cluster::placement::site::Weight;

const KEYS: u64 = 100_000;

fn workers(count: u64) -> Vec<(NodeId, Weight)> {
    (1..=count)
        .map(|id| (NodeId(id), Weight::ORDINARY))
        .collect()
}

fn key(number: u64) -> [u8; 8] {
    number.to_le_bytes()
}

/// Keys per worker, the fullest over the mean, in thousandths.
fn fullest(owner: impl Fn(u64) -> NodeId, count: u64) -> u64 {
    let mut loads = vec![0u64; count as usize + 1];
    for number in 0..KEYS {
        loads[owner(number).0 as usize] += 1;
    }
    loads.iter().max().expect("there are workers") * count * 1000 / KEYS
}

#[test]
fn a_ring_of_many_points_is_nearly_even() {
    let ring = Ring::new(&workers(9), 1000);
    let most = fullest(|number| ring.owner(&key(number)).unwrap(), 9);
    assert!(most < 1100, "{most}");
    assert_eq!(Ring::default().owner(b"x"), None);
}

#[test]
fn a_ring_moves_only_to_the_new_worker() {
    let (nine, ten) = (Ring::new(&workers(9), 128), Ring::new(&workers(10), 128));
    let mut moved = 0;
    for number in 0..KEYS {
        let (before, after) = (nine.owner(&key(number)), ten.owner(&key(number)));
        if before != after {
            assert_eq!(after, Some(NodeId(10)));
            moved += 1;
        }
    }
    assert!((80..130).contains(&(moved * 1000 / KEYS)), "{moved}");
}

#[test]
fn the_order_of_a_ring_names_everybody_once_and_survives_a_loss() {
    let (nine, without) = (Ring::new(&workers(9), 64), Ring::new(&workers(8), 64));
    for number in 0..1000 {
        let mut order = nine.order(&key(number));
        assert_eq!(order.len(), 9);
        order.retain(|node| *node != NodeId(9));
        assert_eq!(order, without.order(&key(number)));
    }
}

#[test]
fn a_bounded_ring_keeps_its_bound_at_every_moment() {
    let mut ring = BoundedRing::new(Ring::new(&workers(9), 16), 100);
    let mut strayed = 0;
    let alone = Ring::new(&workers(9), 16);
    for number in 0..9000u64 {
        let node = ring.assign(&key(number)).unwrap();
        strayed += u64::from(alone.owner(&key(number)) != Some(node));
        let bound = (number + 1) * 1100 / 9000 + 1;
        assert!(ring.loads().values().all(|load| *load <= bound));
    }
    // A ring of 16 points is a fifth off; the bound costs about that many keys their first choice.
    assert!(strayed < 9000 / 4, "{strayed}");
    for (node, load) in ring.loads().clone() {
        (0..load).for_each(|_| ring.release(node));
    }
    assert!(ring.loads().values().all(|load| *load == 0));
}

#[test]
fn maglev_is_even_and_moves_little_more_than_it_must() {
    let nine = Maglev::new(&workers(9), Maglev::ORDINARY_SIZE).unwrap();
    let ten = Maglev::new(&workers(10), Maglev::ORDINARY_SIZE).unwrap();
    let shares = nine.shares();
    let most = shares.iter().map(|(_, share)| *share).max().unwrap();
    let least = shares.iter().map(|(_, share)| *share).min().unwrap();
    assert!(most - least <= 1, "turns make it even");
    let moved = nine.moved(&ten) * 1000 / Maglev::ORDINARY_SIZE as usize;
    assert!((100..135).contains(&moved), "{moved}");
    let most = fullest(|number| nine.owner(&key(number)), 9);
    assert!(most < 1030, "{most}");
}

#[test]
fn maglev_follows_weights_and_no_order() {
    let weight = |weight| Weight::new(weight).unwrap();
    let list = [(NodeId(1), weight(100)), (NodeId(2), weight(300))];
    let table = Maglev::new(&list, 65_537).unwrap();
    let shares = table.shares();
    let ratio = shares[1].1 * 1000 / shares[0].1;
    assert!((2950..3050).contains(&ratio), "{ratio}");
    let turned = [list[1], list[0]];
    assert_eq!(Maglev::new(&turned, 65_537).unwrap(), table);
}

#[test]
fn maglev_refuses_what_cannot_work() {
    assert_eq!(Maglev::new(&[], 7), Err(Refused::NoWorkers));
    assert_eq!(Maglev::new(&workers(2), 8), Err(Refused::NotPrime));
    assert_eq!(Maglev::new(&workers(2), 1), Err(Refused::NotPrime));
    assert_eq!(Maglev::new(&workers(4), 3), Err(Refused::TooSmall));
    assert!(Maglev::new(&workers(2), 2).is_ok());
}
