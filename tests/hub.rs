//! The hub client against a hub on this machine.

mod hub_server;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use embeval::hub::{Hub, HubError, Listing, Patience, Progress, Repo, RepoKind, Settings, Silent, Snapshot};
use hub_server::{Fault, Repo as Served, Request, Server, TOKEN};
use tempfile::TempDir;

const BIG: usize = 3_000_000;

/// Bytes that do not repeat.
fn big(count: usize) -> Vec<u8> {
    (0..count as u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u8).collect()
}

fn settings(endpoint: &str, cache: &Path) -> Settings {
    let pause = Duration::from_millis(1);
    let patience = Patience { pause, ..Patience::default() };
    Settings { endpoint: endpoint.into(), cache: cache.into(), token: None, offline: false, patience }
}

fn model(id: &str) -> Repo {
    Repo { kind: RepoKind::Model, id: id.into(), revision: None }
}

fn at(id: &str, revision: &str) -> Repo {
    Repo { revision: Some(revision.into()), ..model(id) }
}

fn sample() -> Served {
    Served::model("org/bert")
        .file("config.json", "{}")
        .file("1_Pooling/config.json", "{\"pooling\": 1}")
        .file("empty.txt", "")
        .file("notes on ü.md", "ü")
        .lfs("model.safetensors", big(BIG))
}

/// A server with one repository, and an empty cache.
struct Bench {
    server: Server,
    served: Served,
    cache: TempDir,
}

impl Bench {
    fn new(served: Served) -> Self {
        Self { server: Server::start(vec![served.clone()]), served, cache: tempfile::tempdir().unwrap() }
    }

    fn settings(&self) -> Settings {
        settings(&self.server.url, self.cache.path())
    }

    fn hub(&self) -> Hub {
        Hub::new(self.settings())
    }

    fn offline(&self) -> Hub {
        Hub::new(Settings { offline: true, ..self.settings() })
    }

    fn repo(&self) -> Repo {
        model(&self.served.id)
    }

    fn fetch(&self, name: &str) -> Result<PathBuf, HubError> {
        self.hub().file(&self.repo(), &self.served.commit, name, &Silent)
    }

    fn folder(&self) -> PathBuf {
        self.cache.path().join(format!("models--{}", self.served.id.replace('/', "--")))
    }

    fn incomplete(&self, name: &str) -> PathBuf {
        self.folder().join("blobs").join(format!("{}.incomplete", self.served.files[name].etag))
    }

    fn assert_content(&self, name: &str, path: &Path) {
        assert!(fs::read(path).unwrap() == *self.served.files[name].bytes, "{name}");
        assert!(!self.incomplete(name).exists());
    }

    fn heal(&self) {
        self.server.change(&self.served.id, |repo| repo.fault = Fault::None);
        self.server.forget();
    }
}

fn ranges(requests: &[Request]) -> Vec<Option<&str>> {
    requests.iter().map(|r| r.header("range")).collect()
}

fn message(result: Result<impl Sized, HubError>) -> String {
    result.err().expect("an error").to_string()
}

#[track_caller]
fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Progress for Heard {
    fn starts(&self, file: &str, bytes: Option<u64>) {
        self.0.lock().unwrap().push(format!("{file} {bytes:?}"));
    }
    fn advances(&self, done: u64) {
        self.0.lock().unwrap().push(done.to_string());
    }
    fn ends(&self) {
        self.0.lock().unwrap().push("end".into());
    }
}

#[test]
fn a_snapshot_has_the_layout_that_python_shares() {
    let bench = Bench::new(sample());
    let heard = Heard::default();
    let Snapshot { folder, commit, files } = bench.hub().snapshot(&bench.repo(), &|_| true, &heard).unwrap();
    assert_eq!(commit, bench.served.commit);
    assert_eq!(files, bench.served.files.keys().cloned().collect::<Vec<_>>());
    assert_eq!(folder, bench.folder().join("snapshots").join(&commit));
    assert_eq!(fs::read_to_string(bench.folder().join("refs/main")).unwrap(), commit);
    for (name, content) in &bench.served.files {
        bench.assert_content(name, &folder.join(name));
        let up = "../".repeat(2 + name.matches('/').count());
        assert_eq!(fs::read_link(folder.join(name)).unwrap(), PathBuf::from(format!("{up}blobs/{}", content.etag)));
    }
    let heard = heard.0.into_inner().unwrap();
    let start = heard.iter().position(|h| *h == format!("model.safetensors Some({BIG})")).unwrap();
    let counts: Vec<u64> = heard[start + 1..].iter().map_while(|h| h.parse().ok()).collect();
    assert!(counts.is_sorted() && counts.first() == Some(&0) && counts.last() == Some(&(BIG as u64)), "{counts:?}");
    assert_eq!(heard.iter().filter(|h| *h == "end").count(), files.len());

    // Again: only the branch is asked for.
    bench.server.forget();
    let again = bench.hub().snapshot(&bench.repo(), &|_| true, &Silent).unwrap();
    assert_eq!(again.folder, folder);
    assert_eq!(bench.server.requests().len(), 1);
}

#[test]
fn only_wanted_files_are_downloaded() {
    let bench = Bench::new(sample());
    let snapshot = bench.hub().snapshot(&bench.repo(), &|name| name.ends_with(".json"), &Silent).unwrap();
    assert_eq!(snapshot.files, ["1_Pooling/config.json", "config.json"]);
    assert!(!snapshot.folder.join("model.safetensors").exists());
}

#[test]
fn data_sets_branches_with_slashes_and_commits() {
    let mut served = Served::dataset("org/pairs").lfs("data/train.parquet", "rows").file("README.md", "text");
    served.revision = "refs/convert/parquet".into();
    let commit = served.commit.clone();
    let server = Server::start(vec![served]);
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::new(settings(&server.url, cache.path()));
    let named = Repo { kind: RepoKind::Dataset, ..at("org/pairs", "refs/convert/parquet") };
    let snapshot = hub.snapshot(&named, &|_| true, &Silent).unwrap();
    assert_eq!(fs::read_to_string(snapshot.folder.join("data/train.parquet")).unwrap(), "rows");
    assert_eq!(fs::read_to_string(snapshot.folder.join("README.md")).unwrap(), "text");
    let reference = cache.path().join("datasets--org--pairs/refs/refs/convert/parquet");
    assert_eq!(fs::read_to_string(reference).unwrap(), commit);
    assert!(server.requests().iter().any(|r| r.path.ends_with("/revision/refs%2Fconvert%2Fparquet")));

    // A commit that is there needs no network.
    drop(server);
    let fixed = Repo { revision: Some(commit), ..named };
    assert_eq!(hub.snapshot(&fixed, &|_| true, &Silent).unwrap().folder, snapshot.folder);
}

#[test]
fn a_cut_download_goes_on_in_the_same_call() {
    let bench = Bench::new(sample().fault(Fault::Cut { at: 1_000_000, times: 1 }));
    let path = bench.fetch("model.safetensors").unwrap();
    bench.assert_content("model.safetensors", &path);
    let downloads = bench.server.downloads();
    assert_eq!(ranges(&downloads), [None, Some("bytes=1000000-")]);
    assert!(downloads.iter().map(|r| r.sent).sum::<usize>() < 2 * BIG);
}

#[test]
fn a_download_that_is_always_cut_is_kept_and_goes_on_in_a_later_call() {
    let bench = Bench::new(sample().fault(Fault::Cut { at: 1_000_000, times: usize::MAX }));
    let error = message(bench.fetch("model.safetensors"));
    assert_says(&error, &["model.safetensors", "org/bert", "6 times", "1.0 MB (1000000 bytes)", "run again"]);
    assert_eq!(bench.server.downloads().len(), 6);
    assert_eq!(fs::metadata(bench.incomplete("model.safetensors")).unwrap().len(), 1_000_000);
    bench.heal();
    let path = bench.fetch("model.safetensors").unwrap();
    bench.assert_content("model.safetensors", &path);
    assert_eq!(ranges(&bench.server.downloads()), [Some("bytes=1000000-")]);
}

/// Lets the server fail once half of a file has come.
struct Saboteur<'a>(&'a Server);

impl Progress for Saboteur<'_> {
    fn starts(&self, _file: &str, _bytes: Option<u64>) {}
    fn advances(&self, done: u64) {
        if done >= 1_000_000 {
            self.0.change("org/bert", |repo| repo.fault = Fault::Status { code: 503, times: usize::MAX });
        }
    }
    fn ends(&self) {}
}

#[test]
fn a_server_that_fails_half_way_leaves_what_came() {
    let bench = Bench::new(sample().fault(Fault::Cut { at: 1_000_000, times: 1 }));
    let saboteur = Saboteur(&bench.server);
    let error = message(bench.hub().file(&bench.repo(), &bench.served.commit, "model.safetensors", &saboteur));
    assert_says(&error, &["model.safetensors", "503", "1.0 MB (1000000 bytes) of 3.0 MB", "run again"]);
    bench.heal();
    let path = bench.fetch("model.safetensors").unwrap();
    bench.assert_content("model.safetensors", &path);
    assert_eq!(ranges(&bench.server.downloads()), [Some("bytes=1000000-")]);
}

#[test]
fn a_bad_line_that_gets_on_is_not_given_up() {
    let mut served = Served::model("org/large").lfs("w.bin", big(64 << 20));
    served.fault = Fault::CutEach { bytes: 9 << 20, times: usize::MAX };
    let bench = Bench::new(served);
    let path = bench.fetch("w.bin").unwrap();
    bench.assert_content("w.bin", &path);
    assert_eq!(bench.server.downloads().len(), 8);
}

#[test]
fn a_stalled_download_goes_on() {
    let bench = Bench::new(sample().fault(Fault::Stalls { times: 1 }));
    let mut settings = bench.settings();
    settings.patience.idle = Duration::from_millis(500);
    let start = Instant::now();
    let path = Hub::new(settings).file(&bench.repo(), &bench.served.commit, "model.safetensors", &Silent).unwrap();
    bench.assert_content("model.safetensors", &path);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(ranges(&bench.server.downloads()), [None, Some("bytes=1500000-")]);
}

#[test]
fn a_server_without_ranges_begins_anew() {
    for fault in [Fault::IgnoresRange, Fault::RefusesRange] {
        let bench = Bench::new(sample().fault(Fault::Cut { at: 1_000_000, times: usize::MAX }));
        bench.fetch("model.safetensors").unwrap_err();
        bench.server.change("org/bert", |repo| repo.fault = fault.clone());
        let path = bench.fetch("model.safetensors").unwrap();
        bench.assert_content("model.safetensors", &path);
    }
}

#[test]
fn a_partial_file_of_something_else_begins_anew() {
    for length in [1000, BIG, BIG + 1] {
        let bench = Bench::new(sample());
        let incomplete = bench.incomplete("model.safetensors");
        fs::create_dir_all(incomplete.parent().unwrap()).unwrap();
        fs::write(&incomplete, vec![7; length]).unwrap();
        let path = bench.fetch("model.safetensors").unwrap();
        bench.assert_content("model.safetensors", &path);
    }
}

#[test]
fn a_file_of_unknown_length() {
    let bench = Bench::new(sample().fault(Fault::NoLength));
    for name in ["config.json", "model.safetensors"] {
        let path = bench.fetch(name).unwrap();
        bench.assert_content(name, &path);
    }
}

#[test]
fn wrong_content_is_refused_and_not_kept() {
    for (name, kind) in [("model.safetensors", "sha256"), ("config.json", "git sha1")] {
        let bench = Bench::new(sample().fault(Fault::WrongContent));
        let error = message(bench.fetch(name));
        let etag = &bench.served.files[name].etag;
        assert_says(&error, &[name, "org/bert", &format!("{kind} {etag} was announced"), "came", "run again"]);
        assert_eq!(error.matches(kind).count(), 2, "{error}");
        assert!(!bench.incomplete(name).exists());
        bench.heal();
        let path = bench.fetch(name).unwrap();
        bench.assert_content(name, &path);
    }
}

#[test]
fn a_busy_server_is_asked_again() {
    let bench = Bench::new(sample().fault(Fault::Status { code: 503, times: 3 }));
    bench.hub().snapshot(&bench.repo(), &|name| name == "config.json", &Silent).unwrap();
    bench.server.change("org/bert", |repo| repo.fault = Fault::Status { code: 500, times: usize::MAX });
    bench.server.forget();
    let error = message(bench.hub().listing(&bench.repo()));
    assert_says(&error, &["/api/models/org/bert/revision/main", "500", "try again later"]);
    assert_eq!(bench.server.requests().len(), 6);
    assert_says(&message(bench.fetch("model.safetensors")), &["/resolve/", "500"]);
}

#[test]
fn what_is_not_there() {
    for fault in [Fault::None, Fault::PlainErrors] {
        let bench = Bench::new(sample().fault(fault.clone()));
        let hub = bench.hub();
        let error = hub.listing(&model("org/none")).unwrap_err();
        assert!(matches!(error, HubError::RepoNotFound { .. }), "{error}");
        assert_says(&error.to_string(), &["model org/none", &bench.server.url, "check the id", "HF_TOKEN"]);

        let error = hub.listing(&at("org/bert", "v9")).unwrap_err();
        assert_says(&error.to_string(), &["org/bert", "v9", &bench.server.url]);
        let known = matches!(error, HubError::RevisionNotFound { .. });
        assert_eq!(known, fault == Fault::None, "{error}");

        let error = bench.fetch("none.json").unwrap_err();
        assert!(matches!(error, HubError::EntryNotFound { .. }), "{error}");
        assert_says(&error.to_string(), &["org/bert", "none.json"]);
        assert_eq!(hub.listing(&bench.repo()).unwrap().commit, bench.served.commit);
    }
}

#[test]
fn a_private_repository_opens_to_the_token_which_stays_with_the_endpoint() {
    let bench = Bench::new(sample().private());
    let error = message(bench.hub().listing(&bench.repo()));
    assert_says(&error, &["org/bert", "401", "Invalid username", "HF_TOKEN", "hf auth login"]);
    let with = |token: &str| Hub::new(Settings { token: Some(token.into()), ..bench.settings() });
    assert_says(&message(with("hf_wrong").listing(&bench.repo())), &["401", "HF_TOKEN does not open it"]);
    let error = message(with("bad\ntoken").listing(&bench.repo()));
    assert!(error.contains("token") && !error.contains("bad"), "{error}");

    bench.server.forget();
    let snapshot = with(TOKEN).snapshot(&bench.repo(), &|_| true, &Silent).unwrap();
    bench.assert_content("model.safetensors", &snapshot.folder.join("model.safetensors"));
    let requests = bench.server.requests();
    assert!(requests.iter().any(|r| r.cdn));
    for request in requests {
        assert_eq!(request.header("authorization").is_some(), !request.cdn, "{request:?}");
    }
}

#[test]
fn a_gated_repository_names_the_page_with_its_terms() {
    let bench = Bench::new(sample().gated());
    let hub = Hub::new(Settings { token: Some(TOKEN.into()), ..bench.settings() });
    let error = message(hub.snapshot(&bench.repo(), &|_| true, &Silent));
    assert_says(&error, &["403", "restricted", "accept its terms", &format!("{}/org/bert", bench.server.url)]);
}

#[test]
fn offline_with_and_without_the_files() {
    let bench = Bench::new(sample());
    let error = message(bench.offline().listing(&bench.repo()));
    assert_says(&error, &["revision `main`", "org/bert", "HF_HUB_OFFLINE", "local folder"]);
    bench.hub().snapshot(&bench.repo(), &|name| name == "config.json", &Silent).unwrap();
    bench.server.forget();

    let listing = bench.offline().listing(&bench.repo()).unwrap();
    assert_eq!(listing.files.len(), bench.served.files.len());
    let snapshot = bench.offline().snapshot(&bench.repo(), &|name| name == "config.json", &Silent).unwrap();
    bench.assert_content("config.json", &snapshot.folder.join("config.json"));
    bench.offline().snapshot(&at("org/bert", &bench.served.commit), &|name| name == "config.json", &Silent).unwrap();
    let error = message(bench.offline().snapshot(&bench.repo(), &|_| true, &Silent));
    assert_says(&error, &["1_Pooling/config.json", "org/bert", "HF_HUB_OFFLINE", "unset it"]);
    assert!(bench.server.requests().is_empty());
}

/// A cache as Python leaves it: links, a reference, no listing.
fn python_cache(folder: &Path, commit: &str) {
    let root = folder.join("models--org--bert");
    for inner in ["blobs", "refs", &format!("snapshots/{commit}/1_Pooling")] {
        fs::create_dir_all(root.join(inner)).unwrap();
    }
    fs::write(root.join("refs/main"), commit).unwrap();
    for (name, blob) in [("config.json", "aaa"), ("1_Pooling/config.json", "bbb")] {
        fs::write(root.join("blobs").join(blob), name).unwrap();
        let up = "../".repeat(2 + name.matches('/').count());
        let link = root.join("snapshots").join(commit).join(name);
        std::os::unix::fs::symlink(format!("{up}blobs/{blob}"), link).unwrap();
    }
}

#[test]
fn a_cache_that_python_filled_is_read() {
    let cache = tempfile::tempdir().unwrap();
    let commit = Served::model("org/bert").commit;
    python_cache(cache.path(), &commit);
    // Nobody listens there.
    let online = settings("http://127.0.0.1:1", cache.path());
    let offline = Hub::new(Settings { offline: true, ..online.clone() });
    let files = vec!["1_Pooling/config.json".to_string(), "config.json".to_string()];
    let snapshot = offline.snapshot(&model("org/bert"), &|_| true, &Silent).unwrap();
    assert_eq!((&snapshot.commit, &snapshot.files), (&commit, &files));
    assert_eq!(fs::read_to_string(snapshot.folder.join("config.json")).unwrap(), "config.json");
    // A commit is served without network, a branch is not.
    let online = Hub::new(online);
    assert_eq!(online.listing(&at("org/bert", &commit)).unwrap(), Listing { commit, files });
    assert_says(&message(online.listing(&model("org/bert"))), &["http://127.0.0.1:1", "HF_HUB_OFFLINE"]);
}

#[test]
fn a_listing_that_python_remembered_is_read() {
    let cache = tempfile::tempdir().unwrap();
    let commit = Served::model("org/bert").commit;
    python_cache(cache.path(), &commit);
    let trees = cache.path().join("models--org--bert/trees");
    fs::create_dir_all(&trees).unwrap();
    let text = r#"{"format_version": 1, "files": {"a.json": {"size": 1, "blob_id": "x"}, "b/c": {"size": 2, "blob_id": "y"}}}"#;
    fs::write(trees.join(format!("{commit}.json")), text).unwrap();
    let hub = Hub::new(Settings { offline: true, ..settings("http://127.0.0.1:1", cache.path()) });
    assert_eq!(hub.listing(&model("org/bert")).unwrap().files, ["a.json", "b/c"]);
}

#[test]
fn no_connection_names_the_address_and_the_ways_out() {
    let cache = tempfile::tempdir().unwrap();
    for endpoint in ["http://127.0.0.1:1", "http://no-such-host.invalid"] {
        let error = message(Hub::new(settings(endpoint, cache.path())).listing(&model("org/bert")));
        assert_says(&error, &[endpoint, "HF_ENDPOINT", "HF_HUB_OFFLINE", "local folder"]);
    }
    for endpoint in ["huggingface.co", "ftp://hub", ""] {
        let error = message(Hub::new(settings(endpoint, cache.path())).listing(&model("org/bert")));
        assert_says(&error, &["HF_ENDPOINT", "http", &format!("`{endpoint}`")]);
    }
}

#[test]
fn names_that_leave_the_folder_are_refused() {
    for name in ["../../x", "/etc/x", "a\\b", "a/../../b", "nul\0"] {
        let bench = Bench::new(Served::model("org/evil").file(name, "x"));
        let error = message(bench.hub().snapshot(&bench.repo(), &|_| true, &Silent));
        assert_says(&error, &["file name", "outside"]);
        assert!(message(bench.fetch(name)).contains("outside"));
        assert!(fs::read_dir(bench.cache.path()).unwrap().next().is_none());
    }
    let bench = Bench::new(sample());
    for id in ["../x", "a/b/c", "", "org/..", "org/na me"] {
        assert_says(&message(bench.hub().listing(&model(id))), &["repository id"]);
    }
    assert_says(&message(bench.hub().listing(&at("org/bert", "../../x"))), &["revision"]);
    assert_says(&message(bench.hub().file(&bench.repo(), "../x", "config.json", &Silent)), &["commit hash"]);
}

#[test]
fn an_answer_that_is_no_hubs() {
    let bench = Bench::new(sample());
    bench.server.change("org/bert", |repo| repo.commit = "../../x".into());
    assert_says(&message(bench.hub().listing(&bench.repo())), &["no commit hash", "HF_ENDPOINT"]);
}

#[test]
fn two_threads_download_the_same_file() {
    let bench = Bench::new(sample());
    std::thread::scope(|scope| {
        let all: Vec<_> =
            (0..4).map(|_| scope.spawn(|| bench.hub().snapshot(&bench.repo(), &|_| true, &Silent).unwrap())).collect();
        for thread in all {
            let folder = thread.join().unwrap().folder;
            bench.assert_content("model.safetensors", &folder.join("model.safetensors"));
        }
    });
    assert_eq!(bench.server.downloads().iter().filter(|r| r.cdn).count(), 1);
}

/// Not a test of its own: what the tests with several processes run in a child.
#[test]
fn in_a_child() {
    let Ok(endpoint) = std::env::var("EMBEVAL_TEST_CHILD") else { return };
    let cache = PathBuf::from(std::env::var("HF_HUB_CACHE").unwrap());
    let outcome = Hub::new(settings(&endpoint, &cache)).snapshot(&model("org/bert"), &|_| true, &Silent);
    assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
}

fn child(bench: &Bench) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["in_a_child", "--exact", "--nocapture"])
        .env("EMBEVAL_TEST_CHILD", &bench.server.url)
        .env("HF_HUB_CACHE", bench.cache.path())
        .spawn()
        .unwrap()
}

#[test]
fn two_processes_download_the_same_file() {
    let bench = Bench::new(sample());
    let mut all = [child(&bench), child(&bench), child(&bench)];
    for process in &mut all {
        assert!(process.wait().unwrap().success());
    }
    let path = bench.folder().join("snapshots").join(&bench.served.commit).join("model.safetensors");
    bench.assert_content("model.safetensors", &path);
    assert_eq!(bench.server.downloads().iter().filter(|r| r.cdn).count(), 1);
}

#[test]
fn a_killed_process_leaves_what_the_next_one_goes_on_from() {
    let bench = Bench::new(sample().fault(Fault::Stalls { times: usize::MAX }));
    // The small files come before the large one would stall.
    bench.server.change("org/bert", |repo| repo.files.retain(|_, file| file.lfs));
    let mut process = child(&bench);
    let incomplete = bench.incomplete("model.safetensors");
    let start = Instant::now();
    while fs::metadata(&incomplete).map_or(0, |m| m.len()) < 1_500_000 {
        assert!(start.elapsed() < Duration::from_secs(20), "the child does not get on");
        std::thread::sleep(Duration::from_millis(10));
    }
    process.kill().unwrap();
    process.wait().unwrap();
    bench.heal();
    let path = bench.fetch("model.safetensors").unwrap();
    bench.assert_content("model.safetensors", &path);
    assert_eq!(ranges(&bench.server.downloads()), [Some("bytes=1500000-")]);
}

/// A small disk of its own; unmounted when dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let options = ["-t", "tmpfs", "-o", "size=2m", "tmpfs"];
        let mounted = Command::new("mount").args(options).arg(folder.path()).output().is_ok_and(|o| o.status.success());
        mounted.then_some(Self(folder))
    }
}

impl SmallDisk {
    fn read_only(&self) {
        let status = Command::new("mount").args(["-o", "remount,ro"]).arg(self.0.path()).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_named_and_left_usable() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("skipped: no file system can be mounted here (needs root)");
        return;
    };
    // With a length the room is known to be too small before the first byte, without one the disk fills.
    for (fault, needs) in [(Fault::None, "needs 3.0 MB (3000000 bytes)"), (Fault::NoLength, "needs more than 2.")] {
        let served = sample().lfs("small.bin", big(1_000_000)).fault(fault.clone());
        let server = Server::start(vec![served.clone()]);
        let hub = Hub::new(settings(&server.url, disk.0.path()));
        let repo = model("org/bert");
        let error = hub.file(&repo, &served.commit, "model.safetensors", &Silent).unwrap_err();
        assert!(matches!(error, HubError::DiskFull { .. }), "{error}");
        assert_eq!(server.downloads().is_empty(), fault == Fault::None);
        let folder = disk.0.path().to_str().unwrap().to_string();
        assert_says(&error.to_string(), &[&folder, "model.safetensors", needs, "free", "make room", "HF_HUB_CACHE"]);
        let path = hub.file(&repo, &served.commit, "small.bin", &Silent).unwrap();
        assert!(fs::read(&path).unwrap() == *served.files["small.bin"].bytes);
        fs::remove_dir_all(disk.0.path().join("models--org--bert")).unwrap();
    }
}

#[test]
fn a_cache_for_reading_only_serves_what_it_has() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("skipped: no file system can be mounted here (needs root)");
        return;
    };
    let bench = Bench::new(sample());
    let hub = Hub::new(settings(&bench.server.url, disk.0.path()));
    hub.snapshot(&bench.repo(), &|name| name == "config.json", &Silent).unwrap();
    disk.read_only();
    hub.snapshot(&bench.repo(), &|name| name == "config.json", &Silent).unwrap();
    let error = hub.snapshot(&bench.repo(), &|name| name.ends_with(".json"), &Silent).unwrap_err();
    assert!(matches!(error, HubError::Permission { .. }), "{error}");
    assert_says(&error.to_string(), &[disk.0.path().to_str().unwrap(), "HF_HUB_CACHE"]);
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let bench = Bench::new(sample());
    let file = bench.cache.path().join("in the way");
    fs::write(&file, "").unwrap();
    let hub = Hub::new(settings(&bench.server.url, &file));
    let error = message(hub.file(&bench.repo(), &bench.served.commit, "config.json", &Silent));
    assert_says(&error, &["in the way"]);
}

/// With `EMBEVAL_TEST_PYTHON` naming a Python that has `huggingface_hub`: both fill the cache for the other.
#[test]
fn python_shares_the_cache_both_ways() {
    let Ok(python) = std::env::var("EMBEVAL_TEST_PYTHON") else {
        eprintln!("skipped: EMBEVAL_TEST_PYTHON names no Python with huggingface_hub");
        return;
    };
    let run = |bench: &Bench, offline: bool| {
        let code = "from huggingface_hub import snapshot_download; print(snapshot_download('org/bert'))";
        let output = Command::new(&python)
            .args(["-c", code])
            .env("HF_ENDPOINT", &bench.server.url)
            .env("HF_HUB_CACHE", bench.cache.path())
            .env("HF_HUB_OFFLINE", if offline { "1" } else { "0" })
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
    };
    let check = |bench: &Bench, folder: &Path| {
        for name in bench.served.files.keys() {
            bench.assert_content(name, &folder.join(name));
        }
    };
    let ours = Bench::new(sample());
    let folder = ours.hub().snapshot(&ours.repo(), &|_| true, &Silent).unwrap().folder;
    assert_eq!(run(&ours, true), folder);
    ours.server.forget();
    check(&ours, &run(&ours, false));
    assert!(ours.server.downloads().is_empty(), "{:?}", ours.server.downloads());

    let theirs = Bench::new(sample());
    let folder = run(&theirs, false);
    theirs.server.forget();
    let snapshot = theirs.offline().snapshot(&theirs.repo(), &|_| true, &Silent).unwrap();
    assert_eq!(snapshot.folder, folder);
    check(&theirs, &snapshot.folder);
    let snapshot = theirs.hub().snapshot(&theirs.repo(), &|_| true, &Silent).unwrap();
    check(&theirs, &snapshot.folder);
    assert!(theirs.server.downloads().is_empty());
}
