//! The transfer of one file: goes on where an earlier one broke off, and ends with a file whose digest was checked.
//!
//! hf-hub 1.0 starts a broken file anew and checks no digest, hence our own.

use std::io::{self, Read};
use std::path::Path;

use super::api::{Api, Metadata};
use super::client::{Backoff, Failure, Reply, failure, header};
use super::error::bytes;
use super::part::Part;
use super::{HubError, Progress};

/// So much in one go shows that the line works: the count of failures begins anew.
const HEADWAY: u64 = 8 << 20;

/// One file to be downloaded.
pub(super) struct Download<'a> {
    pub(super) api: Api<'a>,
    pub(super) commit: &'a str,
    pub(super) name: &'a str,
    pub(super) metadata: &'a Metadata,
    pub(super) progress: &'a dyn Progress,
}

impl Download<'_> {
    /// Downloads to `incomplete`, which becomes `blob`.
    pub(super) fn run(&self, incomplete: &Path, blob: &Path) -> Result<(), HubError> {
        let mut part = Part::open(incomplete)?;
        if self.metadata.size.is_some_and(|size| part.len > size) {
            part.restart()?;
        }
        self.check_room(&part)?;
        self.progress.starts(self.name, self.metadata.size);
        let outcome = self.complete(&mut part, blob);
        self.progress.ends();
        if outcome.is_err() && part.len == 0 {
            part.remove();
        }
        if let Err(HubError::DiskFull { .. }) = outcome {
            // What fills the disk keeps others from theirs.
            part.remove();
            return Err(self.no_room(&part));
        }
        outcome
    }

    fn complete(&self, part: &mut Part, blob: &Path) -> Result<(), HubError> {
        let mut inherited = part.len > 0;
        loop {
            self.fill(part)?;
            let Some((expected, found)) = part.difference(&self.metadata.etag, self.metadata.size)? else {
                return part.finish(blob);
            };
            if !inherited {
                part.remove();
                return Err(HubError::Checksum { file: self.name.into(), repo: self.repo(), expected, found });
            }
            // What an earlier process left may itself be damaged.
            inherited = false;
            part.restart()?;
        }
    }

    fn fill(&self, part: &mut Part) -> Result<(), HubError> {
        let mut backoff = Backoff::new(&self.api.client.patience);
        while self.metadata.size != Some(part.len) {
            let before = part.len;
            let failure = match self.attempt(part) {
                Ok(()) => return Ok(()),
                Err(Failure::Final(error)) => return Err(error),
                Err(failure) => failure,
            };
            if part.len >= before.saturating_add(HEADWAY) {
                backoff = Backoff::new(&self.api.client.patience);
            }
            tracing::debug!("{} of {}: {failure:?}", self.name, self.api.repo);
            if !backoff.again() {
                return Err(self.given_up(failure, backoff.broken, part.len));
            }
        }
        Ok(())
    }

    /// One request for all that is missing.
    fn attempt(&self, part: &mut Part) -> Result<(), Failure> {
        let reply = self.api.client.get(&self.api.file_address(self.commit, self.name), part.len)?;
        match reply.status().as_u16() {
            206 if first_byte(&reply) == Some(part.len) => {}
            206 | 416 if part.len > 0 => {
                part.restart().map_err(Failure::Final)?;
                return Err(Failure::Broken("the server does not go on from the bytes that are here".into()));
            }
            // The whole file, be it that only its end was asked for.
            200 => part.restart().map_err(Failure::Final)?,
            _ => return Err(Failure::Final(self.api.refused(&reply, Some(self.name)))),
        }
        self.receive(reply, part)
    }

    fn receive(&self, reply: Reply, part: &mut Part) -> Result<(), Failure> {
        let mut body = reply.into_body().into_reader();
        let mut buffer = vec![0; 1 << 17];
        self.progress.advances(part.len);
        // More than was announced is not written: the disk was not checked for it, and it is wrong in any case.
        while self.metadata.size.is_none_or(|size| part.len <= size) {
            let count = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(failure(&self.api.client.endpoint, e.into())),
            };
            part.append(buffer.get(..count).unwrap_or_default()).map_err(Failure::Final)?;
            self.progress.advances(part.len);
        }
        match self.metadata.size {
            Some(size) if part.len < size => Err(Failure::Broken(format!("it ended after {} bytes", part.len))),
            _ => Ok(()),
        }
    }

    fn check_room(&self, part: &Part) -> Result<(), HubError> {
        let missing = self.metadata.size.map_or(0, |size| size.saturating_sub(part.len));
        if free_bytes(part.folder()).is_none_or(|free| free >= missing) {
            return Ok(());
        }
        if part.len == 0 {
            part.remove();
        }
        Err(self.no_room(part))
    }

    fn no_room(&self, part: &Part) -> HubError {
        let folder = part.folder();
        let needed = self.metadata.size.map_or_else(|| format!("more than {}", bytes(part.len)), bytes);
        let needed = format!("`{}` of {} needs {needed}", self.name, self.repo());
        let free = free_bytes(folder).map_or_else(|| "and there is less".into(), |f| format!("{} are free", bytes(f)));
        HubError::DiskFull { folder: folder.into(), needed, free }
    }

    fn given_up(&self, failure: Failure, times: u32, len: u64) -> HubError {
        // Whatever ended it, that the bytes are not lost is what there is to know.
        let failure = if len > 0 { Failure::Broken(failure.reason()) } else { failure };
        failure.into_error(&format!("`{}` of {}", self.name, self.repo()), times, self.kept(len))
    }

    fn kept(&self, len: u64) -> String {
        match (len, self.metadata.size) {
            (0, _) => "nothing came; run again".into(),
            (_, Some(size)) => format!("{} of {} are kept: run again to go on from there", bytes(len), bytes(size)),
            (_, None) => format!("{} are kept: run again to go on from there", bytes(len)),
        }
    }

    fn repo(&self) -> String {
        self.api.repo.to_string()
    }
}

/// Where a partial answer begins.
fn first_byte(reply: &Reply) -> Option<u64> {
    header(reply, "content-range")?.trim().strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

/// Bytes that this user may still write there; none where the file system does not say.
fn free_bytes(folder: &Path) -> Option<u64> {
    let state = rustix::fs::statvfs(folder).ok().filter(|s| s.f_blocks > 0)?;
    Some(state.f_bavail.saturating_mul(state.f_frsize))
}
