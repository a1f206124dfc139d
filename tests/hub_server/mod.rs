//! A hub on this machine, for tests: listings, files, redirects of large files to a second port (the "CDN"), ranges, and
//! faults on demand. Speaks just enough HTTP/1.1.
#![allow(dead_code)] // Each test program uses its own part of it.

pub mod stand_ins;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The token that opens private repositories.
pub const TOKEN: &str = "hf_opensesame";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Model,
    Dataset,
}

/// A repository with one commit.
#[derive(Clone)]
pub struct Repo {
    pub kind: Kind,
    pub id: String,
    pub revision: String,
    pub commit: String,
    pub files: BTreeMap<String, Content>,
    /// Asks for [`TOKEN`].
    pub private: bool,
    /// Refuses everybody until its terms are accepted.
    pub gated: bool,
    pub fault: Fault,
}

#[derive(Clone)]
pub struct Content {
    pub bytes: Arc<[u8]>,
    /// Large files have a sha256 for an etag and come from the CDN's port.
    pub lfs: bool,
    /// As the hub names the content: sha256 of a large file, git's blob hash of a small one.
    pub etag: String,
}

/// What goes wrong with the files of a repository.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    None,
    /// The next so many answers break off at this byte of the file; at byte 0 before any of it.
    Cut {
        at: usize,
        times: usize,
    },
    /// The next so many answers bring only so many bytes each.
    CutEach {
        bytes: usize,
        times: usize,
    },
    /// The next so many requests, listings too, get this status.
    Status {
        code: u16,
        times: usize,
    },
    /// Ranges are ignored: 200 and the whole file.
    IgnoresRange,
    /// Ranges are refused: 416.
    RefusesRange,
    /// The content is not what the etag says.
    WrongContent,
    /// Neither HEAD nor GET say how long the file is.
    NoLength,
    /// The bytes stop coming half-way, and the connection stays.
    Stalls {
        times: usize,
    },
    /// 404 without the hub's own headers.
    PlainErrors,
}

impl Repo {
    /// A model on branch `main`.
    pub fn model(id: &str) -> Self {
        let commit = hex(&Sha1::digest(id));
        let files = BTreeMap::new();
        let (private, gated, fault) = (false, false, Fault::None);
        Self { kind: Kind::Model, id: id.into(), revision: "main".into(), commit, files, private, gated, fault }
    }

    /// A data set on branch `main`.
    pub fn dataset(id: &str) -> Self {
        Self { kind: Kind::Dataset, ..Self::model(id) }
    }

    /// With a small file, which git keeps.
    pub fn file(mut self, path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.files.insert(path.into(), Content::new(bytes.into(), false));
        self
    }

    /// With a large file.
    pub fn lfs(mut self, path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.files.insert(path.into(), Content::new(bytes.into(), true));
        self
    }

    /// With all files of a folder; those over 1 MB count as large.
    pub fn folder(mut self, folder: &std::path::Path) -> Self {
        let mut stack = vec![folder.to_path_buf()];
        while let Some(next) = stack.pop() {
            for entry in std::fs::read_dir(&next).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    stack.push(path);
                    continue;
                }
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().replace('\\', "/");
                let bytes = std::fs::read(&path).unwrap();
                let lfs = bytes.len() > 1 << 20;
                self.files.insert(name, Content::new(bytes, lfs));
            }
        }
        self
    }

    pub fn fault(mut self, fault: Fault) -> Self {
        self.fault = fault;
        self
    }

    pub fn private(mut self) -> Self {
        self.private = true;
        self
    }

    pub fn gated(mut self) -> Self {
        self.gated = true;
        self
    }
}

impl Content {
    pub fn new(bytes: Vec<u8>, lfs: bool) -> Self {
        let etag = if lfs {
            hex(&Sha256::digest(&bytes))
        } else {
            let mut hash = Sha1::new_with_prefix(format!("blob {}\0", bytes.len()));
            hash.update(&bytes);
            hex(&hash.finalize())
        };
        Self { bytes: bytes.into(), lfs, etag }
    }
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Request {
    /// Whether it came to the CDN's port.
    pub cdn: bool,
    pub method: String,
    /// With the query, as it was sent.
    pub path: String,
    headers: Vec<(String, String)>,
    /// The answer's status, and how many bytes of content were sent.
    pub status: u16,
    pub sent: usize,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

/// The hub; it stops when dropped.
pub struct Server {
    /// What `HF_ENDPOINT` is to be.
    pub url: String,
    shared: Arc<Shared>,
    ports: [u16; 2],
}

struct Shared {
    repos: Mutex<Vec<Repo>>,
    log: Mutex<Vec<Request>>,
    cdn: String,
    stopped: AtomicBool,
}

impl Server {
    pub fn start(repos: Vec<Repo>) -> Self {
        let [hub, cdn] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = [&hub, &cdn].map(|l| l.local_addr().unwrap().port());
        let shared = Arc::new(Shared {
            repos: Mutex::new(repos),
            log: Mutex::default(),
            cdn: format!("http://127.0.0.1:{}", ports[1]),
            stopped: AtomicBool::new(false),
        });
        for (listener, is_cdn) in [(hub, false), (cdn, true)] {
            let shared = shared.clone();
            std::thread::spawn(move || accept(&listener, is_cdn, &shared));
        }
        Self { url: format!("http://127.0.0.1:{}", ports[0]), shared, ports }
    }

    /// What was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.log).clone()
    }

    /// What was asked for files' content, without the redirects to it.
    pub fn downloads(&self) -> Vec<Request> {
        let content = |r: &Request| r.method == "GET" && (r.cdn || r.path.contains("/resolve"));
        self.requests().into_iter().filter(|r| content(r) && !matches!(r.status, 302 | 307)).collect()
    }

    /// Forgets what was asked so far.
    pub fn forget(&self) {
        lock(&self.shared.log).clear();
    }

    /// Changes a repository while the hub runs.
    pub fn change(&self, id: &str, change: impl FnOnce(&mut Repo)) {
        change(lock(&self.shared.repos).iter_mut().find(|r| r.id == id).unwrap());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        for port in self.ports {
            // Wakes the listener.
            let _ = TcpStream::connect(("127.0.0.1", port));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

fn accept(listener: &TcpListener, cdn: bool, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stopped.load(Ordering::SeqCst) {
            return;
        }
        let (Ok(stream), shared) = (stream, shared.clone()) else { continue };
        std::thread::spawn(move || converse(stream, cdn, &shared));
    }
}

/// Answers requests until one side closes.
fn converse(stream: TcpStream, cdn: bool, shared: &Shared) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some(mut request) = read_request(&mut reader, cdn) {
        let answer = shared.answer(&request);
        request.status = answer.status;
        // Noted before it is sent: who has the answer finds the request.
        request.sent = if request.method == "HEAD" { 0 } else { answer.body.len() };
        lock(&shared.log).push(request.clone());
        if answer.send(&stream, request.method == "HEAD").is_none() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

fn read_request(reader: &mut impl BufRead, cdn: bool) -> Option<Request> {
    let mut lines = std::iter::from_fn(|| {
        let mut line = String::new();
        reader.take(1 << 16).read_line(&mut line).ok()?;
        Some(line.trim_end().to_string()).filter(|l| !l.is_empty())
    });
    let first = lines.next()?;
    let mut words = first.split(' ').map(str::to_string);
    let (method, path) = (words.next()?, words.next()?);
    let header = |line: String| line.split_once(':').map(|(n, v)| (n.to_string(), v.trim().to_string()));
    Some(Request { cdn, method, path, headers: lines.filter_map(header).collect(), status: 0, sent: 0 })
}

/// What becomes of the connection after an answer.
#[derive(PartialEq)]
enum After {
    Stays,
    Closes,
    Hangs,
}

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// The announced length; none is announced without.
    length: Option<usize>,
    after: After,
}

impl Answer {
    fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), length: Some(0), after: After::Stays }
    }

    fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.into(), value.to_string()));
        self
    }

    fn body(mut self, body: Vec<u8>) -> Self {
        self.length = Some(body.len());
        self.body = body;
        self
    }

    fn error(status: u16, code: &str, message: &str) -> Self {
        let answer = Self::new(status).body(message.into()).with("X-Error-Message", message);
        if code.is_empty() { answer } else { answer.with("X-Error-Code", code) }
    }

    /// None where the connection is to be closed.
    fn send(self, mut stream: &TcpStream, head: bool) -> Option<()> {
        let mut text = format!("HTTP/1.1 {} Answer\r\n", self.status);
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        match self.length {
            Some(length) => text += &format!("Content-Length: {length}\r\n"),
            None => text += "Connection: close\r\n",
        }
        stream.write_all((text + "\r\n").as_bytes()).ok()?;
        if !head {
            stream.write_all(&self.body).ok()?;
        }
        stream.flush().ok()?;
        if self.after == After::Hangs {
            std::thread::sleep(Duration::from_secs(20));
        }
        (self.after == After::Stays && self.length.is_some()).then_some(())
    }
}

impl Shared {
    fn answer(&self, request: &Request) -> Answer {
        let path = decode(request.path.split('?').next().unwrap_or_default());
        let mut repos = lock(&self.repos);
        let Some((repo, rest)) = find(&mut repos, &path) else {
            return Answer::error(404, "RepoNotFound", "Repository not found");
        };
        if let Some(code) = repo.fault.failing_status() {
            return Answer::error(code, "", "out of order");
        }
        if request.cdn {
            let name = rest.trim_start_matches('/').to_string();
            return repo.files.get(&name).cloned().map_or(Answer::new(404), |file| content(repo, &file, request));
        }
        if let Some(refusal) = refusal(repo, request) {
            return refusal;
        }
        if path.starts_with("/api/resolve-cache/") {
            let name = rest.strip_prefix(&format!("/{}/", repo.commit)).unwrap_or_default();
            return repo.files.get(name).cloned().map_or(Answer::new(404), |file| content(repo, &file, request));
        }
        let code = |code| if repo.fault == Fault::PlainErrors { "" } else { code };
        let of_commit = |revision: &str| revision == repo.revision || revision == repo.commit;
        if let Some(revision) = rest.strip_prefix("/revision/") {
            if !of_commit(revision) {
                return Answer::error(404, code("RevisionNotFound"), "Invalid rev id");
            }
            return listing(repo);
        }
        if rest.strip_prefix("/tree/").is_some_and(of_commit) {
            return tree(repo);
        }
        let Some((revision, name)) = rest.strip_prefix("/resolve/").and_then(|r| resolve(r, &repo.revision)) else {
            return Answer::error(404, "", "no such page");
        };
        if !of_commit(revision) {
            return Answer::error(404, code("RevisionNotFound"), "Invalid rev id");
        }
        match repo.files.get(name).cloned() {
            None => Answer::error(404, code("EntryNotFound"), "Entry not found"),
            Some(file) if file.lfs => self.to_cdn(repo, name, &file),
            Some(file) => to_cache(repo, name, &file),
        }
    }

    fn to_cdn(&self, repo: &Repo, name: &str, file: &Content) -> Answer {
        let kind = if repo.kind == Kind::Dataset { "datasets/" } else { "" };
        let location = format!("{}/{kind}{}/{}?Signature=s", self.cdn, repo.id, encode(name));
        link(describe(Answer::new(302).with("Location", location), repo).body(b"redirected".to_vec()), repo, file)
    }
}

/// Small files too lie elsewhere, on the same host. That of a data set does not describe the file yet.
fn to_cache(repo: &Repo, name: &str, file: &Content) -> Answer {
    let kind = if repo.kind == Kind::Dataset { "datasets" } else { "models" };
    let location = format!("/api/resolve-cache/{kind}/{}/{}/{}?x=%22", repo.id, repo.commit, encode(name));
    let answer = describe(Answer::new(307).with("Location", location), repo).body(b"moved".to_vec());
    if repo.kind == Kind::Dataset { answer } else { link(answer, repo, file) }
}

/// With what a redirect says of the file behind it.
fn link(answer: Answer, repo: &Repo, file: &Content) -> Answer {
    let answer = answer.with("X-Linked-Etag", format!("\"{}\"", file.etag));
    if repo.fault == Fault::NoLength { answer } else { answer.with("X-Linked-Size", file.bytes.len()) }
}

impl Fault {
    /// The status that every request gets for now.
    fn failing_status(&mut self) -> Option<u16> {
        match self {
            Self::Status { code, times } if *times > 0 => {
                *times -= 1;
                Some(*code)
            }
            _ => None,
        }
    }
}

/// The repository of a path, and what comes behind it.
fn find<'a, 'p>(repos: &'a mut [Repo], path: &'p str) -> Option<(&'a mut Repo, &'p str)> {
    let inner = path.strip_prefix("/api/resolve-cache/").or_else(|| path.strip_prefix("/api/"));
    let inner = inner.map_or(path.strip_prefix('/')?, |inner| inner.strip_prefix("models/").unwrap_or(inner));
    let (kind, inner) = inner.strip_prefix("datasets/").map_or((Kind::Model, inner), |inner| (Kind::Dataset, inner));
    repos.iter_mut().filter(|r| r.kind == kind).find_map(|repo| {
        let rest = inner.strip_prefix(repo.id.as_str())?;
        rest.starts_with('/').then_some((repo, rest))
    })
}

/// Revision and file; a revision may have slashes in it.
fn resolve<'a>(rest: &'a str, revision: &str) -> Option<(&'a str, &'a str)> {
    if let Some(name) = rest.strip_prefix(revision).and_then(|r| r.strip_prefix('/')) {
        return Some((rest.get(..revision.len())?, name));
    }
    rest.split_once('/')
}

fn refusal(repo: &Repo, request: &Request) -> Option<Answer> {
    let known = request.header("authorization") == Some(&format!("Bearer {TOKEN}"));
    if repo.private && !known {
        return Some(Answer::error(401, "", "Invalid username or password."));
    }
    let files = request.path.contains("/resolve/");
    (repo.gated && files).then(|| Answer::error(403, "GatedRepo", "Access to this model is restricted."))
}

fn listing(repo: &Repo) -> Answer {
    let siblings: Vec<_> = repo.files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
    let document = serde_json::json!({ "id": repo.id, "sha": repo.commit, "siblings": siblings });
    Answer::new(200).with("Content-Type", "application/json").body(document.to_string().into_bytes())
}

/// What Python asks for in place of a listing.
fn tree(repo: &Repo) -> Answer {
    let entry = |(path, file): (&String, &Content)| {
        let size = file.bytes.len();
        let lfs = file.lfs.then(|| serde_json::json!({ "oid": file.etag, "size": size, "pointerSize": 130 }));
        // A large file's object in git is its pointer, which nobody asks for here.
        let oid = if file.lfs { hex(&Sha1::digest(path)) } else { file.etag.clone() };
        let mut entry = serde_json::json!({ "type": "file", "oid": oid, "size": size, "path": path });
        if let (Some(lfs), Some(entry)) = (lfs, entry.as_object_mut()) {
            entry.insert("lfs".into(), lfs);
        }
        entry
    };
    let entries: Vec<_> = repo.files.iter().map(entry).collect();
    let text = serde_json::Value::from(entries).to_string();
    Answer::new(200).with("Content-Type", "application/json").body(text.into_bytes())
}

fn describe(answer: Answer, repo: &Repo) -> Answer {
    answer.with("X-Repo-Commit", &repo.commit).with("Accept-Ranges", "bytes")
}

/// The file's bytes, or what the repository's fault makes of them.
fn content(repo: &mut Repo, file: &Content, request: &Request) -> Answer {
    let range =
        request.header("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let range = range.filter(|_| repo.fault != Fault::IgnoresRange);
    let total = file.bytes.len();
    let mut answer = match range {
        Some(from) if from >= total || repo.fault == Fault::RefusesRange => {
            return Answer::new(416).with("Content-Range", format!("bytes */{total}"));
        }
        Some(from) => Answer::new(206)
            .with("Content-Range", format!("bytes {from}-{}/{total}", total - 1))
            .body(file.bytes[from..].to_vec()),
        None => Answer::new(200).body(file.bytes.to_vec()),
    };
    if repo.fault == Fault::WrongContent {
        answer.body.iter_mut().for_each(|b| *b = b.wrapping_add(1));
    }
    // The CDN knows the content by another name.
    answer = if request.cdn {
        answer.with("ETag", "\"d41d8cd98f00b204e9800998ecf8427e-2\"")
    } else {
        describe(answer, repo).with("ETag", format!("\"{}\"", file.etag))
    };
    if request.method == "GET" {
        repo.fault.befall(&mut answer, range.unwrap_or(0));
    }
    if repo.fault == Fault::NoLength {
        answer.length = None;
    }
    answer
}

impl Fault {
    fn befall(&mut self, answer: &mut Answer, from: usize) {
        let (kept, after, times) = match self {
            Self::Cut { at, times } => (at.saturating_sub(from), After::Closes, times),
            Self::CutEach { bytes, times } => (*bytes, After::Closes, times),
            Self::Stalls { times } => (answer.body.len() / 2, After::Hangs, times),
            _ => return,
        };
        if *times > 0 && kept < answer.body.len() {
            *times -= 1;
            answer.body.truncate(kept);
            answer.after = after;
        }
    }
}

fn encode(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
    path.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn decode(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let code = tail.get(..2).and_then(|c| u8::from_str_radix(std::str::from_utf8(c).ok()?, 16).ok());
        match code.filter(|_| byte == b'%') {
            Some(code) => (rest, _) = (&tail[2..], bytes.push(code)),
            None => (rest, _) = (tail, bytes.push(byte)),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Bytes in hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
