//! The order in which workers get what a pass of the node has brought.

use std::panic::{AssertUnwindSafe, catch_unwind};

use base::{ClusterId, Epoch, NodeId};
use node::hub::Member;
use state::Revision;

use super::*;

fn publication() -> Publication {
    Publication {
        member: Member {
            cluster: ClusterId(1),
            node: NodeId(1),
        },
        batches: Arc::new([]),
        revision: Revision(1),
        compacted: Revision(0),
        term: Epoch(1),
        has_leader: true,
        reset: true,
        access: None,
    }
}

/// A mailbox that fails whoever opens it.
fn fails(mailbox: &Arc<mailbox::Mailbox>) {
    let mailbox = Arc::clone(mailbox);
    let opened = std::thread::spawn(move || mailbox.fail_holding_it());
    assert!(opened.join().is_err());
}

#[test]
fn all_workers_have_what_is_published_before_any_has_an_answer() {
    let mailboxes = Workers::mailboxes(2);
    let mut deliveries = Deliveries::new(mailboxes.clone());
    let of_the_first = CallId(1 << slots::Key::BITS);
    assert_eq!(worker::number_of(of_the_first), Some(0));
    assert!(
        deliveries
            .answer(of_the_first, Answer::Ready(Ok(())))
            .is_none()
    );
    deliveries.tell(&News::Published {
        group: node::group::META,
        publication: publication(),
    });
    // Delivering stops where it comes to the second worker for the first time.
    fails(&mailboxes.0[1]);
    assert!(catch_unwind(AssertUnwindSafe(|| deliveries.deliver())).is_err());
    // It would tell the failing one that nothing more comes.
    std::mem::forget(deliveries);
    let mut delivery = mailbox::Delivery::default();
    mailboxes.0[0].take(&mut delivery);
    assert_eq!(delivery.news.len(), 1);
    assert!(
        delivery.answers.is_empty(),
        "the second one knows nothing yet"
    );
}
