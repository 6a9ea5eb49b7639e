//! A link's socket, plain or with TLS, without waiting.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::endpoints::Address;

/// Whom to trust, and what to show.
#[derive(Clone)]
pub(crate) struct Trust(Arc<ClientConfig>);

impl fmt::Debug for Trust {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Trust")
    }
}

impl Trust {
    /// From files: authorities, and a certificate with its key.
    ///
    /// # Errors
    /// A file cannot be read or used: named in the text.
    pub(crate) fn read(authorities: &Path, own: Option<(&Path, &Path)>) -> Result<Trust, String> {
        let problem =
            |path: &Path, error: &dyn fmt::Display| format!("{}: {error}", path.display());
        let certificates = |path: &Path| {
            let all = CertificateDer::pem_file_iter(path);
            let all: Result<Vec<_>, _> = all.and_then(Iterator::collect);
            all.map_err(|error| problem(path, &error))
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(authorities)? {
            let added = roots.add(certificate);
            added.map_err(|error| problem(authorities, &error))?;
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the library's versions fit its algorithms")
            .with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates(certificate)?;
                let private = PrivateKeyDer::from_pem_file(key);
                let private = private.map_err(|error| problem(key, &error))?;
                let built = builder.with_client_auth_cert(chain, private);
                built.map_err(|error| problem(certificate, &error))?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Trust(Arc::new(config)))
    }
}

/// What carries bytes.
#[derive(Debug)]
pub(crate) enum Carrier {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Does the same with either kind.
macro_rules! with_carrier {
    ($carrier:expr, $socket:ident => $action:expr) => {
        match $carrier {
            Carrier::Tcp($socket) => $action,
            Carrier::Unix($socket) => $action,
        }
    };
}

impl Carrier {
    fn connect(address: &Address, timeout: Duration) -> io::Result<Carrier> {
        match address {
            Address::Tcp(address) => {
                let socket = TcpStream::connect_timeout(address, timeout)?;
                socket.set_nodelay(true)?;
                Ok(Carrier::Tcp(socket))
            }
            Address::Unix(path) => Ok(Carrier::Unix(UnixStream::connect(path)?)),
        }
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        with_carrier!(self, socket => socket.set_nonblocking(nonblocking))
    }

    fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        with_carrier!(self, socket => {
            socket.set_read_timeout(Some(timeout))?;
            socket.set_write_timeout(Some(timeout))
        })
    }
}

impl Read for Carrier {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        with_carrier!(self, socket => socket.read(buffer))
    }
}

impl Write for Carrier {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        with_carrier!(self, socket => socket.write(bytes))
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        with_carrier!(self, socket => socket.write_vectored(slices))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Carrier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        with_carrier!(self, socket => socket.as_fd())
    }
}

/// A connected socket.
#[derive(Debug)]
pub(crate) enum Socket {
    Plain(Carrier),
    Secured(Box<StreamOwned<ClientConnection, Carrier>>),
}

impl Socket {
    /// Connects, agrees on TLS if there is trust, and does not wait from then on.
    pub(crate) fn connect(
        address: &Address,
        name: &str,
        trust: Option<&Trust>,
        timeout: Duration,
    ) -> io::Result<Socket> {
        let mut socket = Carrier::connect(address, timeout)?;
        let Some(Trust(config)) = trust else {
            socket.set_nonblocking(true)?;
            return Ok(Socket::Plain(socket));
        };
        let host = name.rsplit_once(':').map_or(name, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let host = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let connection = ClientConnection::new(Arc::clone(config), host);
        let mut connection = connection.map_err(io::Error::other)?;
        socket.set_timeout(timeout)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        socket.set_nonblocking(true)?;
        Ok(Socket::Secured(Box::new(StreamOwned::new(
            connection, socket,
        ))))
    }

    /// Whether there may be more to read although the system says nothing.
    pub(crate) fn keeps_back(&self) -> bool {
        matches!(self, Socket::Secured(_))
    }

    /// Writes what it has kept back; whether something is left.
    pub(crate) fn flush_kept(&mut self) -> io::Result<bool> {
        let Socket::Secured(stream) = self else {
            return Ok(false);
        };
        while stream.conn.wants_write() {
            match stream.conn.write_tls(&mut stream.sock) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Plain(socket) => socket.read(buffer),
            Socket::Secured(stream) => stream.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Plain(socket) => socket.write(bytes),
            Socket::Secured(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Plain(socket) => socket.as_fd(),
            Socket::Secured(stream) => stream.sock.as_fd(),
        }
    }
}
