//! Runs the stories in `testdata/*.txt`.
//!
//! A line that begins with `>` is a command, one that begins with `#` a remark; all other lines are
//! what the engines answered, and must be exactly that. `UPDATE_TRANSCRIPTS=1 cargo test -p
//! quorate-consensus --test transcripts` writes the answers anew; read the difference before you
//! commit it.
//!
//! | command | what happens |
//! |---|---|
//! | `engine paxos` | replicas agree by Multi-Paxos; otherwise by Raft |
//! | `nodes 1 2 3` | replicas start with these voters |
//! | `join 4` | an empty replica starts |
//! | `campaign 1` | time passes until 1's own deadline, and only 1 notices |
//! | `deliver [1->2]` | messages (on that link) arrive until none is on its way |
//! | `drop 1->2` | what is on its way on that link is lost |
//! | `keep 1->2 name`, `replay name` | takes the first message off a link; it arrives later |
//! | `forge name 3->1` | the message kept under that name claims to come from 3, and goes to 1 |
//! | `cut 1 2`, `mend` | messages between them are lost from now on, and no longer |
//! | `disk 1 hangs`, `durable 1 [n]`, `disk 1 works` | writes wait; the oldest n become durable |
//! | `installing 1 hangs`, `installing 1 works` | a snapshot that is whole is not installed yet |
//! | `advance 500ms` | time passes, everything arrives at once |
//! | `sleep 500ms` | time passes, nothing happens |
//! | `propose 1 x y`, `read 1`, `transfer 1 [2]` | inputs |
//! | `change 1 add 4`, `promote 4`, `remove 4` | a change of membership is asked of 1 |
//! | `checkpoint 1 [kept]` | 1 takes a checkpoint, and its log keeps so many slots before it |
//! | `crash 1`, `restart 1 [damaged n]` | without what is not durable; the last n are lost |
//! | `closed 2 1`, `reachable 2 1` | 2 notices that the connection to 1 was closed, is up |
//! | `status`, `log 1` | what can be seen |

mod cluster;
mod story;

use std::fs;
use std::path::Path;

use story::Story;

#[allow(clippy::disallowed_methods)] // A developer asks for new transcripts by the environment.
fn is_updating() -> bool {
    std::env::var("UPDATE_TRANSCRIPTS").is_ok()
}

/// Runs a script and returns it with the answers as they are.
fn play(script: &str) -> String {
    let mut story = Story::default();
    let mut played = String::new();
    for line in script.lines() {
        let is_remark = line.starts_with('#') || line.is_empty();
        if is_remark {
            played.push_str(line);
            played.push('\n');
        } else if let Some(command) = line.strip_prefix('>') {
            played.push_str(line);
            played.push('\n');
            for answer in story.command(command.trim()) {
                played.push_str("  ");
                played.push_str(&answer);
                played.push('\n');
            }
        }
    }
    played
}

#[test]
fn stories_go_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let entries = fs::read_dir(&folder).expect("the folder of transcripts is there");
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("readable").path())
        .collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    assert!(paths.len() >= 40, "the transcripts are there");
    let mut different = Vec::new();
    for path in paths {
        let expected = fs::read_to_string(&path).expect("a transcript is text");
        let played = std::panic::catch_unwind(|| play(&expected));
        let played = played.unwrap_or_else(|_| panic!("{} cannot be played", path.display()));
        if played == expected {
            continue;
        }
        if is_updating() {
            fs::write(&path, played).expect("a transcript can be written");
            continue;
        }
        let differs = expected
            .lines()
            .zip(played.lines())
            .find(|(old, new)| old != new);
        different.push(format!("{}: {differs:?}", path.display()));
    }
    assert!(
        different.is_empty(),
        "expected and played differ: {different:#?}"
    );
}
