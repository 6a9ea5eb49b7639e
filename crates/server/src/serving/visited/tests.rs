//! When connections are visited, and what reading and writing are like meanwhile.

use std::task::Waker;
use std::thread::sleep;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::super::socket::ClientStream;
use super::*;

/// The two ends of a connection.
async fn pair() -> (ClientStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (ClientStream::Tcp(accepted.unwrap().0), client.unwrap())
}

/// What can be read without waiting.
fn read_now(stream: &mut ClientStream) -> Option<Vec<u8>> {
    let mut bytes = [0; 64];
    let mut buffer = ReadBuf::new(&mut bytes);
    let context = &mut Context::from_waker(Waker::noop());
    match Pin::new(stream).poll_read(context, &mut buffer) {
        Poll::Pending => None,
        Poll::Ready(result) => {
            result.unwrap();
            Some(buffer.filled().to_vec())
        }
    }
}

#[tokio::test]
async fn what_comes_waits_for_the_visit_and_what_is_written_does_not() {
    let (mut stream, mut client) = pair().await;
    stream.begin_visits().unwrap();
    client.write_all(b"one").await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(read_now(&mut stream), None);
    stream.visit();
    assert_eq!(read_now(&mut stream).unwrap(), b"one");
    assert_eq!(
        read_now(&mut stream),
        None,
        "a visit is over once nothing is left"
    );
    stream.write_all(b"answer").await.unwrap();
    let mut answer = [0; 6];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"answer");
    client.write_all(b"two").await.unwrap();
    stream.end_visits().unwrap();
    let mut two = [0; 3];
    stream.read_exact(&mut two).await.unwrap();
    assert_eq!(&two, b"two", "what came before it was watched again");
    stream.begin_visits().unwrap();
    drop(client);
    tokio::time::sleep(Duration::from_millis(20)).await;
    stream.visit();
    assert_eq!(read_now(&mut stream).unwrap(), b"", "the end is found too");
}

#[tokio::test]
async fn whoever_cannot_write_is_watched_again() {
    let (mut stream, mut client) = pair().await;
    stream.begin_visits().unwrap();
    let bytes = vec![7; 16 << 20];
    let total = bytes.len();
    let write = async move {
        stream.write_all(&bytes).await.unwrap();
        assert!(matches!(stream, ClientStream::Tcp(_)), "it had to wait");
    };
    let read = async move {
        let mut buffer = vec![0; 1 << 20];
        let mut read = 0;
        while read < total {
            read += client.read(&mut buffer).await.unwrap();
        }
    };
    tokio::join!(write, read);
}

#[tokio::test]
async fn only_who_has_much_to_renew_and_nothing_else_is_visited() {
    let limits = VisitLimits {
        interval: Duration::from_millis(10),
        window: Duration::from_millis(200),
        fewest: 4,
        bytes_each: 100,
    };
    let traffic = Traffic::default();
    let mut visits = Visits::new(&limits, Clock::start());
    let context = &mut Context::from_waker(Waker::noop());
    let mut now = visits.since;
    let mut after = |count: u32, is_urgent: bool, pause: u64| {
        (0..count).for_each(|_| traffic.patient());
        if is_urgent {
            traffic.urgent();
        }
        now = now + Duration::from_millis(pause);
        visits.poll_at(now, context, &traffic, 0)
    };
    assert_eq!(after(9, false, 1), Visiting::Unchanged, "not for long yet");
    assert_eq!(
        after(0, true, 210),
        Visiting::Unchanged,
        "something else came"
    );
    assert_eq!(after(3, false, 210), Visiting::Unchanged, "too few");
    assert_eq!(after(9, false, 410), Visiting::Unchanged, "too slowly");
    assert_eq!(after(4, false, 210), Visiting::Begin);
    assert_eq!(after(0, true, 0), Visiting::End, "at once");
    assert_eq!(after(4, false, 210), Visiting::Begin);
}

#[tokio::test]
async fn the_alarm_of_visits_is_rung_by_the_runtime() {
    let limits = VisitLimits {
        interval: Duration::from_millis(10),
        window: Duration::from_millis(200),
        fewest: 4,
        bytes_each: 100,
    };
    let traffic = Traffic::default();
    let mut visits = Visits::new(&limits, Clock::start());
    // A window in which this machine stood still is not lively; another one comes.
    std::future::poll_fn(|context| {
        traffic.patient();
        sleep(Duration::from_millis(1));
        context.waker().wake_by_ref();
        match visits.poll(context, &traffic, 0) {
            Visiting::Begin => Poll::Ready(()),
            _ => Poll::Pending,
        }
    })
    .await;
    let mut seen = Vec::new();
    std::future::poll_fn(|context| {
        (0..4).for_each(|_| traffic.patient());
        let visiting = visits.poll(context, &traffic, 0);
        seen.extend((visiting != Visiting::Unchanged).then_some(visiting));
        match seen.len() < 9 {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    })
    .await;
    assert_eq!(seen, [Visiting::Visit; 9], "it goes on while enough comes");
    let mut last = Visiting::Unchanged;
    std::future::poll_fn(|context| {
        last = visits.poll(context, &traffic, 0);
        match last {
            Visiting::End => Poll::Ready(()),
            _ => Poll::Pending,
        }
    })
    .await;
    assert_eq!(last, Visiting::End, "nobody renews any more");
}

#[tokio::test]
async fn who_sends_without_end_is_watched_again_and_nothing_is_lost() {
    let (mut stream, mut client) = pair().await;
    stream.begin_visits().unwrap();
    let sent: Vec<u8> = (0..VISIT_BYTES + 5_000)
        .map(|place| (place % 251) as u8)
        .collect();
    client.write_all(&sent).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    stream.visit();
    let mut read = Vec::new();
    while let Some(bytes) = read_now(&mut stream) {
        read.extend_from_slice(&bytes);
        assert!(
            read.len() <= VISIT_BYTES,
            "one visit does not go on for ever"
        );
    }
    assert_eq!(read.len(), VISIT_BYTES);
    assert!(
        matches!(stream, ClientStream::Tcp(_)),
        "it is watched again"
    );
    let mut rest = vec![0; sent.len() - read.len()];
    stream.read_exact(&mut rest).await.unwrap();
    read.extend_from_slice(&rest);
    assert_eq!(read, sent);
}

#[test]
fn who_moves_more_than_renewals_is_not_visited() {
    let limits = VisitLimits {
        interval: Duration::from_millis(10),
        window: Duration::from_millis(50),
        fewest: 4,
        bytes_each: 100,
    };
    let traffic = Traffic::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let _entered = runtime.enter();
    let mut visits = Visits::new(&limits, Clock::start());
    let context = &mut Context::from_waker(Waker::noop());
    let mut now = visits.since;
    let mut after = |moved_bytes: u64| {
        (0..4).for_each(|_| traffic.patient());
        now = now + Duration::from_millis(60);
        visits.poll_at(now, context, &traffic, moved_bytes)
    };
    assert_eq!(
        after(401),
        Visiting::Unchanged,
        "a large answer is under way"
    );
    assert_eq!(
        after(801),
        Visiting::Begin,
        "what counts is what came since"
    );
}
