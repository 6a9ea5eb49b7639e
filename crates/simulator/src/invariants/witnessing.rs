//! A witness votes and holds no data (`docs/decisions/0018-witnesses.md`): it never leads, and
//! nothing of what clients wrote is in its state. That what is chosen has its copies is counted
//! with the votes ([`super::chosen`]).

use node::group::Group;

use super::{Violation, violated};

/// A node leads.
///
/// # Errors
/// If it is a witness.
pub fn may_lead(group: &Group) -> Result<(), Violation> {
    let (_, membership) = group.engine().membership_in_force();
    match group.is_witness() || membership.is_witness(group.id()) {
        true => violated(
            "a witness never leads",
            format!("{} leads {membership:?}", group.id()),
        ),
        false => Ok(()),
    }
}

/// A witness has passed more slots.
///
/// # Errors
/// If its state is not empty.
pub fn holds_nothing(group: &Group) -> Result<(), Violation> {
    let reader = group.replica().reader();
    match reader.held_bytes() > 0 || reader.revision().0 > 1 {
        true => violated(
            "a witness holds no data",
            format!(
                "{} holds {} bytes at revision {}",
                group.id(),
                reader.held_bytes(),
                reader.revision().0
            ),
        ),
        false => Ok(()),
    }
}
