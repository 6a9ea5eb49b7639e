//! Threads whose work has time give way to those on whom somebody waits.

/// The priority of whoever gives way to all others.
const LEAST: i32 = 19;

/// This thread gives way to all others from now on. Where that is not allowed, it goes on as it is.
pub(crate) fn give_way_to_all() {
    let _ = rustix::process::setpriority_process(None, LEAST);
}
