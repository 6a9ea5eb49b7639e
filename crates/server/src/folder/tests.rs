//! The folder under other processes' hands, damage and newer builds.

use std::os::unix::fs::PermissionsExt as _;

use base::{ClusterId, DiskId, GroupId, Incarnation, NodeId};
use consensus::membership::Member;
use consensus::{EngineKind, Membership, QuorumRule, QuorumSizes};

use super::*;

fn example(standing: Standing) -> Identity {
    Identity {
        node: NodeId(0x8c1f_0f64_c2ab_90d1),
        disk: DiskId(7),
        name: "n1".into(),
        incarnation: Incarnation(3),
        journal_created: standing != Standing::Alone,
        epochs: base::Epoch(7),
        is_doubtful: false,
        has_others: standing == Standing::Alone,
        is_witness: standing != Standing::Alone,
        standing,
    }
}

fn membership() -> Membership {
    let mut membership = Membership::default();
    for (id, name) in [(1, "n1"), (2, "quote\" and\nline"), (3, "n3")] {
        let member = Member {
            name: name.into(),
            peer_address: format!("h{id}:2380"),
        };
        membership.members.insert(NodeId(id), member);
    }
    membership.voters.extend([NodeId(1), NodeId(2)]);
    membership.outgoing.insert(NodeId(3));
    let sizes = QuorumSizes {
        elect: 2,
        commit: 1,
    };
    let rule = QuorumRule::new(2, sizes).expect("2 + 1 > 2");
    membership.quorums = rule.with_copies(1).expect("1 is not 0");
    membership.witnesses.insert(NodeId(1));
    membership
}

#[test]
fn an_identity_survives_being_written_and_read() {
    let folder = tempfile::tempdir().unwrap();
    let folder = Folder::open(folder.path()).unwrap();
    assert_eq!(folder.identity(), Ok(None));
    let cluster = ClusterId(u64::MAX);
    for standing in [
        Standing::Alone,
        Standing::Forming {
            cluster,
            genesis: membership(),
            engine: EngineKind::Paxos,
        },
        Standing::Member {
            cluster,
            genesis: membership(),
            engine: EngineKind::Paxos,
        },
        Standing::Member {
            cluster,
            genesis: Membership::default(),
            engine: EngineKind::Raft,
        },
    ] {
        let identity = example(standing);
        folder.identity_writer().write(&identity).unwrap();
        assert_eq!(folder.identity(), Ok(Some(identity)));
    }
    assert!(!folder.path().join(IDENTITY_DRAFT).exists());
}

#[test]
fn the_log_says_where_a_member_is_reached_and_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let folder = Folder::open(folder.path()).unwrap();
    assert!(!place_is_logged(folder.path()), "there is no identity");
    let standing = |address: &str, is_member| {
        let mut genesis = membership();
        let own = Member {
            name: "n1".into(),
            peer_address: address.into(),
        };
        genesis.members.insert(example(Standing::Alone).node, own);
        let (cluster, engine) = (ClusterId(5), EngineKind::Raft);
        match is_member {
            true => Standing::Member {
                cluster,
                genesis,
                engine,
            },
            false => Standing::Forming {
                cluster,
                genesis,
                engine,
            },
        }
    };
    let joined = Standing::Member {
        cluster: ClusterId(5),
        genesis: Membership::default(),
        engine: EngineKind::Raft,
    };
    for (standing, expected) in [
        (Standing::Alone, false),
        (standing("h1:2380", false), false),
        (standing("h1:2380", true), true),
        (standing("", true), false),
        (joined, true),
    ] {
        let identity = example(standing);
        folder.identity_writer().write(&identity).unwrap();
        let is_logged = place_is_logged(folder.path());
        assert_eq!(is_logged, expected, "{:?}", identity.standing);
    }
    for name in [IDENTITY, IDENTITY_COPY] {
        fs::write(folder.path().join(name), "damaged").unwrap();
    }
    assert!(!place_is_logged(folder.path()), "nobody can tell");
}

#[test]
fn any_changed_byte_of_an_identity_is_noticed_and_the_file_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let folder = Folder::open(folder.path()).unwrap();
    let standing = Standing::Member {
        cluster: ClusterId(5),
        genesis: membership(),
        engine: EngineKind::Raft,
    };
    let identity = example(standing);
    folder.identity_writer().write(&identity).unwrap();
    let path = folder.path().join(IDENTITY);
    let copy = folder.path().join(IDENTITY_COPY);
    let good = fs::read(&path).unwrap();
    // Either of the two is enough.
    for damaged in [&path, &copy] {
        fs::write(damaged, &good[1..]).unwrap();
        assert_eq!(folder.identity(), Ok(Some(identity.clone())));
        fs::remove_file(damaged).unwrap();
        assert_eq!(folder.identity(), Ok(Some(identity.clone())));
        fs::write(damaged, &good).unwrap();
    }
    fs::remove_file(&copy).unwrap();
    for position in 0..good.len() {
        let mut bad = good.clone();
        bad[position] ^= 0x01;
        fs::write(&path, &bad).unwrap();
        let error = folder.identity().expect_err("a changed byte is noticed");
        assert_eq!(error.path, path);
        assert!(error.what.contains("damaged"), "{error}");
        assert!(error.remedy.contains("add it anew"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), bad);
    }
    for length in 0..good.len() {
        fs::write(&path, &good[..length]).unwrap();
        folder.identity().expect_err("a cut file is noticed");
    }
}

/// A file whose checksum is right, whatever it says.
fn guarded(text: &str) -> Vec<u8> {
    let checksum = base::checksum::crc32c(text.as_bytes());
    format!("{text}# crc32c {checksum:08x}\n").into_bytes()
}

#[test]
fn a_newer_format_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let folder = Folder::open(folder.path()).unwrap();
    let path = folder.path().join(IDENTITY);
    fs::write(&path, guarded("format = 2\nsomething = 'else'\n")).unwrap();
    let error = folder.identity().unwrap_err().to_string();
    assert!(
        error.contains("has format 2, and this build knows formats up to 1"),
        "{error}"
    );
    assert!(error.contains("start a build at least as new"), "{error}");
}

#[test]
fn well_guarded_nonsense_is_refused() {
    for text in [
        "",
        "format = 1\n",
        "format = -1\n",
        "format = 1\nname = 'n'\nnode = '1'\ndisk = '2'\nincarnation = 1\n\
         journal-created = false\nstanding = 'alone'\n",
        "format = 1\nname = 'n'\nnode = '0000000000000001'\ndisk = '0000000000000002'\n\
         incarnation = 1\njournal-created = false\nstanding = 'member'\n",
    ] {
        identity::decode(&guarded(text)).expect_err(text);
    }
}

#[test]
fn a_second_user_is_told_who_holds_the_folder() {
    let temporary = tempfile::tempdir().unwrap();
    let first = Folder::open(temporary.path()).unwrap();
    let error = Folder::open(temporary.path()).unwrap_err().to_string();
    let expected = format!("is in use by process {}", std::process::id());
    assert!(error.contains(&expected), "{error}");
    drop(first);
    Folder::open(temporary.path()).unwrap();
}

#[test]
fn a_new_folder_is_for_this_user_alone() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("a/b");
    Folder::open(&path).unwrap();
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn a_folder_that_is_a_file_is_refused_with_its_path() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("data");
    fs::write(&path, b"").unwrap();
    let error = Folder::open(&path).unwrap_err();
    assert_eq!(error.path, path);
    assert!(error.remedy.contains("another data-dir"), "{error}");
}

#[test]
fn files_are_listed_with_their_lengths_and_strangers_are_left_out() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = Folder::open(temporary.path()).unwrap();
    let known = [
        (disk::File::Segment(0x1f), 3),
        (disk::File::SpareSegment(2), 0),
        (disk::File::Checkpoint(GroupId(7), Slot(u64::MAX)), 5),
        (disk::File::PartialCheckpoint(GroupId(0), Slot(9)), 1),
        (disk::File::IncomingCheckpoint(GroupId(0), Slot(9)), 2),
    ];
    for (file, length) in known {
        fs::write(folder.path().join(path_of(file)), vec![0; length]).unwrap();
    }
    for stranger in [
        "journal/README",
        "journal/+000000000000001.segment",
        "journal/1.segment",
        "journal/0000000000000001.checkpoint",
        "checkpoints/0000000000000000-00000000000000FF.partial",
        "checkpoints/00000000000000ff.partial",
    ] {
        fs::write(folder.path().join(stranger), b"x").unwrap();
    }
    let mut expected: Vec<(disk::File, u64)> = known
        .iter()
        .map(|(file, length)| (*file, *length as u64))
        .collect();
    expected.sort_unstable();
    assert_eq!(folder.files(), Ok(expected));
    let path = path_of(disk::File::Segment(0x1f));
    assert_eq!(path, Path::new("journal/000000000000001f.segment"));
}

#[test]
fn folders_on_the_way_are_made_too() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("a/b/c");
    let folder = Folder::open(&path).unwrap();
    assert!(folder.files().unwrap().is_empty());
    for made in ["a", "a/b", "a/b/c/journal"] {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(temporary.path().join(made)).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o700, "{made}");
    }
    std::fs::write(temporary.path().join("file"), "").unwrap();
    Folder::open(&temporary.path().join("file/data")).unwrap_err();
}

#[test]
fn a_folder_stays_locked_while_somebody_holds_it() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = Folder::open(temporary.path()).unwrap();
    let hold = folder.hold();
    drop(folder);
    Folder::open(temporary.path()).unwrap_err();
    drop(hold);
    Folder::open(temporary.path()).unwrap();
}

/// The file with the lock is in the way of whoever believes that it is left over.
#[test]
fn a_folder_stays_locked_without_its_file() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = Folder::open(temporary.path()).unwrap();
    std::fs::remove_file(temporary.path().join("lock")).unwrap();
    let error = Folder::open(temporary.path()).unwrap_err();
    assert!(error.what.contains("in use by"), "{error}");
    drop(folder);
    Folder::open(temporary.path()).unwrap();
}
