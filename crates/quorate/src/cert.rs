//! `quorate cert`: certificates for those who have nobody to make them, as files in one folder.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use server::tls::authority::{Authority, AuthorityError, Issued, Wish};

use crate::command_line::{CertPlace, CertTask};

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertError {
    /// A file cannot be read or written.
    #[error("{}: {cause}", path.display())]
    File {
        path: PathBuf,
        cause: std::io::Error,
    },
    /// There is no authority yet.
    #[error("{}: no authority is there; `quorate cert authority` makes one", .0.display())]
    NoAuthority(PathBuf),
    /// A name cannot be part of a file's name.
    #[error("{0:?} is no name: expected letters, digits, dots and dashes")]
    BadName(String),
    /// A certificate cannot be made.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

/// Makes what is asked for, and says where it is.
pub(crate) fn cert(task: &CertTask) -> Result<String, CertError> {
    match task {
        CertTask::Authority { place, days } => {
            let folder = &place.folder;
            fs::create_dir_all(folder).map_err(|cause| at(folder, cause))?;
            let (_, kept) = Authority::new("Quorate private authority", validity(*days))?;
            keep(folder, "ca", &kept)
        }
        CertTask::Node {
            name,
            hosts,
            place,
            days,
        } => issue(place, name, hosts, *days),
        CertTask::Client { name, place, days } => issue(place, name, &[], *days),
        CertTask::Revoke {
            certificates,
            place,
            days,
        } => revoke(place, certificates, *days),
    }
}

fn validity(days: u32) -> Duration {
    Duration::from_secs(u64::from(days) * 86_400)
}

fn at(path: &Path, cause: std::io::Error) -> CertError {
    CertError::File {
        path: path.to_owned(),
        cause,
    }
}

fn read(path: &Path) -> Result<String, CertError> {
    fs::read_to_string(path).map_err(|cause| at(path, cause))
}

fn authority(folder: &Path) -> Result<Authority, CertError> {
    let (certificate, key) = (folder.join("ca.pem"), folder.join("ca-key.pem"));
    if !certificate.exists() {
        return Err(CertError::NoAuthority(certificate));
    }
    let kept = Issued {
        certificate: read(&certificate)?,
        key: read(&key)?,
    };
    Ok(Authority::from_pem(&kept)?)
}

fn issue(place: &CertPlace, name: &str, hosts: &[String], days: u32) -> Result<String, CertError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
    if name.is_empty() || name.starts_with('.') || name == "ca" || !name.chars().all(allowed) {
        return Err(CertError::BadName(name.to_owned()));
    }
    let wish = Wish {
        name,
        hosts,
        validity: validity(days),
    };
    let issued = authority(&place.folder)?.issue(&wish)?;
    keep(&place.folder, name, &issued)
}

/// Writes a certificate and its key, neither over an older one.
fn keep(folder: &Path, name: &str, issued: &Issued) -> Result<String, CertError> {
    let certificate = folder.join(format!("{name}.pem"));
    let key = folder.join(format!("{name}-key.pem"));
    // The key first: what is there then has one.
    write_new(&key, &issued.key, 0o600)?;
    write_new(&certificate, &issued.certificate, 0o644)?;
    Ok(format!("{}\n{}", certificate.display(), key.display()))
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), CertError> {
    let mut options = File::options();
    let file = options.write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|cause| at(path, cause))
}

fn revoke(place: &CertPlace, files: &[PathBuf], days: u32) -> Result<String, CertError> {
    let list = place.folder.join("revoked.pem");
    let older = list.exists().then(|| read(&list)).transpose()?;
    let certificates: Result<Vec<String>, CertError> =
        files.iter().map(|path| read(path)).collect();
    let authority = authority(&place.folder)?;
    let text = authority.revoke(older.as_deref(), &certificates?, validity(days))?;
    // At once, since servers look at it while it changes.
    let new = place.folder.join("revoked.pem.new");
    fs::write(&new, text).map_err(|cause| at(&new, cause))?;
    fs::rename(&new, &list).map_err(|cause| at(&list, cause))?;
    Ok(list.display().to_string())
}
