//! Connections with sockets, and the one loop that serves all of a thread's.
//!
//! ```text
//!   epoll ──> for each link that is ready:  one read ── events to the load
//!                                           the load's next requests ── one write
//!         ──> the load's turn: what time brings (schedules, timeouts)
//! ```
//!
//! No runtime: with a task and its wake-ups for each connection the driver would cost more than
//! the servers that it measures. A link that is lost is connected again by a thread of
//! its endpoint, since connecting may wait, and the loop must not.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};

use super::endpoints::Endpoint;
use super::http2::{Connection, Event, Stream};
use super::latency::Nanoseconds;
use super::limits::Limits;
use super::socket::Socket;

/// Work for links to carry.
pub(crate) trait Load {
    /// Something has come on a link.
    fn event(&mut self, link: usize, event: Event<'_>, now: Nanoseconds);

    /// A link is lost, and with it these calls.
    fn lost(&mut self, link: usize, tokens: &[u32], reason: &str, now: Nanoseconds);

    /// All that was read on a link was handed over: what is to be sent now goes out together.
    fn after_events(&mut self, links: &mut Links, link: usize, now: Nanoseconds);

    /// Once for each pass over the links that were ready, and when [`Load::deadline`] has come.
    fn turn(&mut self, links: &mut Links, now: Nanoseconds);

    /// When it wants its turn at the latest.
    fn deadline(&self) -> Nanoseconds;

    /// Whether what happens now counts; preparation and warm-up do not.
    fn is_measuring(&self) -> bool;

    /// Whether all is done.
    fn is_done(&self) -> bool;
}

/// One connection and its socket.
#[derive(Debug)]
struct Link {
    endpoint: usize,
    connection: Connection,
    socket: Option<Socket>,
    /// The beginning of a frame that is not whole yet.
    rest: Vec<u8>,
    /// What epoll is asked to report.
    interest: epoll::EventFlags,
    /// It is never read again.
    is_stalled: bool,
    /// Something was put out since the last write.
    is_dirty: bool,
}

/// A link's number and its new socket.
type Connected = (usize, Socket);

/// The links of one thread.
#[derive(Debug)]
pub(crate) struct Links {
    endpoints: Vec<Endpoint>,
    limits: Limits,
    epoll: OwnedFd,
    links: Vec<Link>,
    dirty: Vec<usize>,
    scratch: Vec<u8>,
    began: Instant,
    reconnecting: usize,
    connected: (mpsc::Sender<Connected>, mpsc::Receiver<Connected>),
    /// The threads that connect again, by endpoint.
    seekers: Vec<Option<mpsc::Sender<usize>>>,
    /// How often each endpoint's connections were lost, and why the last time.
    losses: Vec<Option<(u64, String)>>,
}

impl Links {
    /// Connects `count` links, spread over the endpoints, the first to endpoint number `first`,
    /// and waits until every server is ready for requests. Time is counted from `began`.
    ///
    /// # Errors
    /// An endpoint cannot be reached, or does not speak HTTP/2: named in the text.
    pub(crate) fn connect(
        endpoints: &[Endpoint],
        first: usize,
        count: usize,
        limits: Limits,
        began: Instant,
    ) -> Result<Links, String> {
        let problem = |error: rustix::io::Errno| format!("cannot poll sockets: {error}");
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(problem)?;
        let mut links = Links {
            endpoints: endpoints.to_vec(),
            limits,
            epoll,
            links: Vec::with_capacity(count),
            dirty: Vec::new(),
            scratch: vec![0; limits.read_bytes],
            began,
            reconnecting: 0,
            connected: mpsc::channel(),
            seekers: vec![None; endpoints.len()],
            losses: vec![None; endpoints.len()],
        };
        for index in 0..count {
            let endpoint = (first + index) % endpoints.len();
            let Endpoint { name, token, .. } = &endpoints[endpoint];
            let connection = Connection::new(name, token.as_ref());
            links.links.push(Link {
                endpoint,
                connection,
                socket: None,
                rest: Vec::new(),
                interest: epoll::EventFlags::empty(),
                is_stalled: false,
                is_dirty: false,
            });
            let socket = connect(&endpoints[endpoint], limits.connect_timeout);
            let adopted = socket.and_then(|socket| links.adopt(index, socket));
            adopted.map_err(|error| format!("cannot connect to {name}: {error}"))?;
        }
        links.wait_until_open()?;
        Ok(links)
    }

    /// Waits for the servers' settings.
    fn wait_until_open(&mut self) -> Result<(), String> {
        struct Opening;
        impl Load for Opening {
            fn event(&mut self, _: usize, _: Event<'_>, _: Nanoseconds) {}
            fn lost(&mut self, _: usize, _: &[u32], _: &str, _: Nanoseconds) {}
            fn after_events(&mut self, _: &mut Links, _: usize, _: Nanoseconds) {}
            fn turn(&mut self, _: &mut Links, _: Nanoseconds) {}
            fn deadline(&self) -> Nanoseconds {
                0
            }
            fn is_measuring(&self) -> bool {
                false
            }
            fn is_done(&self) -> bool {
                false
            }
        }
        let waiting = Instant::now();
        loop {
            self.pass(&mut Opening, Duration::from_millis(20));
            let losses = self.losses.iter().zip(&self.endpoints);
            for (loss, endpoint) in losses {
                if let Some((_, reason)) = loss {
                    return Err(format!("{}: {reason}", endpoint.name));
                }
            }
            let closed = self.links.iter().find(|link| !link.connection.has_room());
            let Some(link) = closed else {
                return Ok(());
            };
            if waiting.elapsed() > self.limits.connect_timeout {
                let name = &self.endpoints[link.endpoint].name;
                return Err(format!("{name} accepts connections and says nothing"));
            }
        }
    }

    /// Nanoseconds since the run began.
    pub(crate) fn now(&self) -> Nanoseconds {
        self.began.elapsed().as_nanos() as Nanoseconds
    }

    /// How many links there are.
    pub(crate) fn count(&self) -> usize {
        self.links.len()
    }

    /// Whether a request may be sent on a link.
    pub(crate) fn has_room(&self, link: usize) -> bool {
        self.links[link].socket.is_some() && self.links[link].connection.has_room()
    }

    /// What happened to connections: endpoint, how many were lost, why the last one.
    pub(crate) fn losses(&self) -> impl Iterator<Item = (&str, u64, &str)> {
        let losses = self.endpoints.iter().zip(&self.losses);
        losses.filter_map(|(endpoint, loss)| {
            let (count, reason) = loss.as_ref()?;
            Some((endpoint.name.as_str(), *count, reason.as_str()))
        })
    }

    /// Sends a request; see [`Connection::open`]. It leaves with the rest of the pass.
    pub(crate) fn open(
        &mut self,
        link: usize,
        token: u32,
        path: &'static str,
        message: &[u8],
        last: bool,
    ) -> Stream {
        self.mark(link);
        let connection = &mut self.links[link].connection;
        connection.open(token, path, message, last)
    }

    /// Sends a further message on a stream.
    pub(crate) fn send(&mut self, link: usize, stream: Stream, message: &[u8]) {
        self.mark(link);
        self.links[link].connection.send(stream, message, false);
    }

    /// Gives a stream up.
    pub(crate) fn cancel(&mut self, link: usize, stream: Stream) {
        self.mark(link);
        self.links[link].connection.cancel(stream);
    }

    /// From now on nothing is read on a link, as from a client that hangs.
    pub(crate) fn stall(&mut self, link: usize) {
        self.mark(link);
        self.links[link].is_stalled = true;
    }

    fn mark(&mut self, link: usize) {
        if !self.links[link].is_dirty {
            self.links[link].is_dirty = true;
            self.dirty.push(link);
        }
    }

    /// Serves all links until the load is done. `tell` is called after every pass.
    pub(crate) fn run<L: Load>(&mut self, load: &mut L, mut tell: impl FnMut(&L)) {
        loop {
            let now = self.now();
            load.turn(self, now);
            self.write_dirty(load);
            tell(load);
            if load.is_done() {
                return;
            }
            let rest = load.deadline().saturating_sub(self.now());
            self.pass(load, Duration::from_nanos(rest));
        }
    }

    /// Waits for at most so long, then serves every link that is ready.
    fn pass<L: Load>(&mut self, load: &mut L, wait: Duration) {
        let wait = if self.reconnecting > 0 {
            wait.min(self.limits.reconnect_pause)
        } else {
            wait.min(Duration::from_millis(100))
        };
        let timeout = Timespec::try_from(wait).expect("a tenth of a second can be told");
        let mut ready = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }; 128];
        // An interrupted wait is a short wait.
        let count = epoll::wait(&self.epoll, &mut ready, Some(&timeout)).unwrap_or(0);
        for event in &ready[..count] {
            let link = event.data.u64() as usize;
            while self.read(load, link) {}
            self.write(load, link);
        }
        if self.reconnecting > 0 {
            self.take_connected(load);
        }
    }

    /// One read, and what follows from it; whether there may be more that nobody will report.
    fn read<L: Load>(&mut self, load: &mut L, index: usize) -> bool {
        let link = &mut self.links[index];
        let Some(socket) = &mut link.socket else {
            return false;
        };
        let keeps_back = socket.keeps_back();
        let outcome = socket.read(&mut self.scratch);
        let now = self.began.elapsed().as_nanos() as Nanoseconds;
        let received = match outcome {
            Ok(0) => {
                self.lose(load, index, "the server closed the connection");
                return false;
            }
            Ok(received) => &self.scratch[..received],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(error) => {
                self.lose(load, index, &error.to_string());
                return false;
            }
        };
        let bytes = if link.rest.is_empty() {
            received
        } else {
            link.rest.extend_from_slice(received);
            &link.rest
        };
        let mut sink = |event: Event<'_>| load.event(index, event, now);
        match link.connection.receive(bytes, &mut sink) {
            Ok(taken) if link.rest.is_empty() => link.rest.extend_from_slice(&received[taken..]),
            Ok(taken) => drop(link.rest.drain(..taken)),
            Err(reason) => {
                self.lose(load, index, &reason);
                return false;
            }
        }
        load.after_events(self, index, now);
        if self.links[index].connection.is_drained() {
            self.lose(load, index, "the server asked to go elsewhere");
            return false;
        }
        keeps_back && !self.links[index].is_stalled
    }

    /// One write of all that is to be sent on a link.
    fn write<L: Load>(&mut self, load: &mut L, index: usize) {
        let link = &mut self.links[index];
        link.is_dirty = false;
        let Some(socket) = &mut link.socket else {
            return;
        };
        let output = link.connection.output();
        if !output.is_empty() {
            match socket.write(output) {
                Ok(written) if written == output.len() => output.clear(),
                Ok(written) => drop(output.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return self.lose(load, index, &error.to_string()),
            }
        }
        let keeps = match socket.flush_kept() {
            Ok(keeps) => keeps,
            Err(error) => return self.lose(load, index, &error.to_string()),
        };
        let mut interest = epoll::EventFlags::empty();
        // A server that makes us answer and does not read has to wait.
        interest.set(
            epoll::EventFlags::IN,
            output.len() < self.limits.output_bytes && !link.is_stalled,
        );
        interest.set(epoll::EventFlags::OUT, keeps || !output.is_empty());
        if interest != link.interest {
            link.interest = interest;
            let data = epoll::EventData::new_u64(index as u64);
            let modified = epoll::modify(&self.epoll, &*socket, data, interest);
            modified.expect("the socket is registered as long as it is held");
        }
    }

    fn write_dirty<L: Load>(&mut self, load: &mut L) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            if self.links[index].is_dirty {
                self.write(load, index);
            }
        }
        dirty.append(&mut self.dirty);
        self.dirty = dirty;
    }

    /// A link is gone: the load is told, and a new connection is sought.
    fn lose<L: Load>(&mut self, load: &mut L, index: usize, reason: &str) {
        let now = self.now();
        let link = &mut self.links[index];
        link.socket = None; // which also takes it out of epoll
        link.rest = Vec::new();
        let endpoint = &self.endpoints[link.endpoint];
        let fresh = Connection::new(&endpoint.name, endpoint.token.as_ref());
        let lost = std::mem::replace(&mut link.connection, fresh);
        let (count, last) = self.losses[link.endpoint].get_or_insert_with(|| (0, String::new()));
        *count += 1;
        reason.clone_into(last);
        self.seek(index);
        let tokens: Vec<u32> = lost.tokens().collect();
        load.lost(index, &tokens, reason, now);
        load.after_events(self, index, now);
    }

    /// Connects a link again, in a thread that each endpoint has for this.
    fn seek(&mut self, index: usize) {
        self.reconnecting += 1;
        let endpoint = self.links[index].endpoint;
        let sought = self.endpoints[endpoint].clone();
        let limits = self.limits;
        let connected = self.connected.0.clone();
        let seeker = self.seekers[endpoint].get_or_insert_with(|| {
            let (seeker, wanted) = mpsc::channel();
            std::thread::spawn(move || {
                while let Ok(index) = wanted.recv() {
                    let socket = connect_at_last(&sought, &limits);
                    if connected.send((index, socket)).is_err() {
                        return; // the run is over
                    }
                }
            });
            seeker
        });
        let sent = seeker.send(index);
        sent.expect("the thread lives as long as this end of the channel");
    }

    fn take_connected<L: Load>(&mut self, load: &mut L) {
        while let Ok((index, socket)) = self.connected.1.try_recv() {
            self.reconnecting -= 1;
            match self.adopt(index, socket) {
                Ok(()) => self.write(load, index),
                Err(_) => self.seek(index),
            }
        }
    }

    fn adopt(&mut self, index: usize, socket: Socket) -> io::Result<()> {
        let link = &mut self.links[index];
        let data = epoll::EventData::new_u64(index as u64);
        link.interest = epoll::EventFlags::IN | epoll::EventFlags::OUT;
        epoll::add(&self.epoll, &socket, data, link.interest)?;
        link.socket = Some(socket);
        Ok(())
    }
}

fn connect(endpoint: &Endpoint, timeout: Duration) -> io::Result<Socket> {
    let Endpoint {
        name,
        address,
        trust,
        ..
    } = endpoint;
    Socket::connect(address, name, trust.as_ref(), timeout)
}

/// Connects, however often that has to be tried.
fn connect_at_last(endpoint: &Endpoint, limits: &Limits) -> Socket {
    loop {
        match connect(endpoint, limits.connect_timeout) {
            Ok(socket) => return socket,
            Err(_) => std::thread::sleep(limits.reconnect_pause),
        }
    }
}
