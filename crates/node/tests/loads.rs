//! Leaderships go where there is least to do: by what each keyspace asks of its leader, and not
//! back and forth.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use consensus::EngineKind;
use etcd::proto::etcdserverpb::{PutRequest, RangeRequest};
use quorate_node::{Answer, Call, Placement, Tending};

mod support;

use support::{World, config};

const NODES: usize = 3;

/// Three nodes that spread leaderships, and keyspaces on all of them.
fn nodes(seed: u64, keyspaces: &[&str]) -> World {
    let configs = (0..NODES).map(|each| {
        let mut config = config(each, NODES);
        config.tending = Tending::default();
        config
    });
    let mut world = World::new(seed, configs.collect());
    (0..NODES).for_each(|host| world.start(host));
    world.wait_for_leader();
    for (index, name) in keyspaces.iter().enumerate() {
        let call = Call::KeyspaceCreate {
            names: vec![(*name).to_owned()],
            replicas: NODES,
            engine: EngineKind::ALL[index % 2],
            quorums: None,
        };
        let answer = world.ask(0, call);
        assert!(matches!(answer, Answer::Operator(Ok(_))), "{answer:?}");
    }
    // Idle ones are led by number.
    world.run(Duration::from_secs(60));
    world
}

fn within(keyspace: &str, request: etcd::Request) -> Call {
    Call::In {
        keyspace: Arc::from(keyspace),
        call: Box::new(Call::Etcd(request)),
    }
}

fn put(keyspace: &str, number: u64) -> Call {
    let request = PutRequest {
        key: Bytes::from(format!("k{}", number % 10)),
        value: Bytes::from_static(b"value"),
        ..PutRequest::default()
    };
    within(keyspace, etcd::Request::Put(request))
}

fn get(keyspace: &str) -> Call {
    let request = RangeRequest {
        key: Bytes::from_static(b"k1"),
        ..RangeRequest::default()
    };
    within(keyspace, etcd::Request::Range(request))
}

fn led_by(world: &mut World) -> BTreeMap<String, usize> {
    match world.ask(0, Call::Keyspaces) {
        Answer::Keyspaces(all) => {
            // The first group stays where it is.
            let others = all.into_iter().filter(|each| each.name != "default");
            let led = others.filter_map(|each| {
                let leader = each.leader?;
                let host: usize = leader[1..].parse().expect("names count");
                Some((each.name, host - 1))
            });
            led.collect()
        }
        other => panic!("{other:?}"),
    }
}

/// So many calls each tenth of a second for so many seconds, through host 0. Returns how often
/// leaderships have moved, seen once a second.
fn work(
    world: &mut World,
    seconds: u64,
    calls: &[(&str, u64)],
    make: fn(&str, u64) -> Call,
) -> usize {
    let mut moved = 0;
    let mut before = led_by(world);
    for tenth in 0..seconds * 10 {
        let all = calls.iter().flat_map(|(name, count)| {
            let name = *name;
            (0..*count).map(move |number| make(name, number))
        });
        let ids = world.call_together(0, all.collect());
        world.run(Duration::from_millis(100));
        ids.into_iter().for_each(|id| drop(world.answer(id)));
        if tenth % 10 == 9 {
            let now = led_by(world);
            moved += now
                .iter()
                .filter(|(name, host)| before.get(*name) != Some(*host))
                .count();
            before = now;
        }
    }
    moved
}

fn of_host(led: &BTreeMap<String, usize>, host: usize) -> Vec<String> {
    let names = led.iter().filter(|(_, leader)| **leader == host);
    names.map(|(name, _)| name.clone()).collect()
}

#[test]
fn keyspaces_that_are_busy_on_one_node_get_leaders_on_others_and_stay_there() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let mut world = nodes(1, &names);
    let led = led_by(&mut world);
    let busy = of_host(&led, led["a"]);
    assert_eq!(busy.len(), 2, "by number: {led:?}");
    let calls: Vec<(&str, u64)> = busy.iter().map(|name| (&name[..], 20)).collect();
    work(&mut world, 60, &calls, put);
    let led = led_by(&mut world);
    assert_ne!(led[&busy[0]], led[&busy[1]], "each by itself: {led:?}");
    let moved = work(&mut world, 60, &calls, put);
    assert_eq!(moved, 0, "{:?}", led_by(&mut world));
    // What has nothing to do is led by number again.
    world.run(Duration::from_secs(500));
    let led = led_by(&mut world);
    for host in 0..NODES {
        assert_eq!(of_host(&led, host).len(), 2, "{led:?}");
    }
}

#[test]
fn a_hot_keyspace_stays_and_what_stands_beside_it_goes() {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    let mut world = nodes(2, &names);
    let led = led_by(&mut world);
    let host = led["a"];
    let here = of_host(&led, host);
    assert_eq!(here.len(), 3, "by number: {led:?}");
    let calls = [(&here[0][..], 60), (&here[1][..], 4), (&here[2][..], 4)];
    work(&mut world, 90, &calls, put);
    let led = led_by(&mut world);
    assert_eq!(led[&here[0]], host, "it would be as hot elsewhere: {led:?}");
    for light in &here[1..] {
        assert_ne!(led[light], host, "{light}: {led:?}");
    }
    assert_eq!(work(&mut world, 60, &calls, put), 0);
    let explain = Call::Placement(Placement::Explain {
        name: here[0].clone(),
    });
    let Answer::Operator(Ok(text)) = world.ask(1, explain) else {
        panic!("no explanation");
    };
    let line = text.lines().find(|line| line.contains("a second"));
    let line = line.unwrap_or_else(|| panic!("{text}"));
    let load = |host: usize| -> u64 {
        let from = line
            .find(&format!("n{} ", host + 1))
            .expect("all are named")
            + 3;
        let digits = line[from..].chars().take_while(char::is_ascii_digit);
        digits.collect::<String>().parse().expect("a number")
    };
    assert!((500..700).contains(&load(host)), "{text}");
}

#[test]
fn rounds_for_reads_are_work_as_well() {
    let mut world = nodes(3, &["a", "b", "c", "d", "e", "f"]);
    let led = led_by(&mut world);
    // Led elsewhere, so that each read asks the leader.
    let busy = of_host(&led, 1);
    assert_eq!(busy.len(), 2, "by number: {led:?}");
    let calls: Vec<(&str, u64)> = busy.iter().map(|name| (&name[..], 1)).collect();
    let mut some = 0;
    for _ in 0..3000 {
        let all = calls.iter().map(|(name, _)| get(name)).collect();
        let ids = world.call_together(0, all);
        world.run(Duration::from_millis(10));
        some += ids.into_iter().filter_map(|id| world.answer(id)).count();
    }
    assert!(some > 5000, "reads are answered: {some}");
    let led = led_by(&mut world);
    assert_ne!(led[&busy[0]], led[&busy[1]], "each by itself: {led:?}");
}

#[test]
fn little_work_moves_nothing_and_who_is_told_not_to_does_not() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let mut world = nodes(4, &names);
    let led = led_by(&mut world);
    let busy = of_host(&led, led["a"]);
    let little: Vec<(&str, u64)> = busy.iter().map(|name| (&name[..], 3)).collect();
    assert_eq!(work(&mut world, 40, &little, put), 0);
    let tend = Call::Placement(Placement::Tend {
        replace_after: None,
        rebalances: Some(false),
    });
    let answer = world.ask(0, tend);
    assert!(matches!(answer, Answer::Operator(Ok(_))), "{answer:?}");
    let much: Vec<(&str, u64)> = busy.iter().map(|name| (&name[..], 20)).collect();
    assert_eq!(work(&mut world, 40, &much, put), 0);
}

/// A leadership that moves wakes its group. So it moves only where nodes are uneven.
#[test]
fn who_leads_its_share_of_idle_keyspaces_keeps_what_it_has() {
    let names: Vec<String> = (0..60).map(|number| format!("k{number}")).collect();
    let mut world = nodes(5, &[]);
    let call = Call::KeyspaceCreate {
        names,
        replicas: NODES,
        engine: EngineKind::Raft,
        quorums: None,
    };
    let answer = world.ask(0, call);
    assert!(matches!(answer, Answer::Operator(Ok(_))), "{answer:?}");
    let mut led = led_by(&mut world);
    while led.len() < 60 {
        world.run(Duration::from_millis(100));
        led = led_by(&mut world);
    }
    let counts = |led: &BTreeMap<String, usize>| {
        let count = |host| of_host(led, host).len();
        (0..NODES).map(count).collect::<Vec<usize>>()
    };
    // 20 are the share of each, and 21 are not too many.
    let most = |led: &BTreeMap<String, usize>| counts(led).into_iter().max();
    let surplus = counts(&led)
        .iter()
        .map(|count| count.saturating_sub(21))
        .sum();
    let moved = work(&mut world, 120, &[], put);
    assert!(moved <= surplus, "{moved} of {surplus}: {:?}", counts(&led));
    led = led_by(&mut world);
    assert!(most(&led) <= Some(21), "{:?}", counts(&led));

    // One that was away gets what makes it even, and no more.
    let away = led["k0"];
    let has = counts(&led)[away];
    world.kill(away);
    world.run(Duration::from_secs(20));
    world.start(away);
    let moved = work(&mut world, 180, &[], put);
    led = led_by(&mut world);
    assert!(most(&led) <= Some(21), "{:?}", counts(&led));
    assert!(moved <= has, "{moved} of {has}");
}
