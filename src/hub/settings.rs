//! Where the hub is, where its cache lies and what token goes along: read from the environment as Python's
//! `huggingface_hub` reads it.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// The hub that is used where `HF_ENDPOINT` is not set.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// How a [`Hub`](super::Hub) reaches its server.
#[derive(Clone)]
pub struct Settings {
    /// The server's address, without a slash at the end.
    pub endpoint: String,
    /// The folder that holds `models--org--name`.
    pub cache: PathBuf,
    /// Sent to the endpoint's own host.
    pub token: Option<String>,
    /// No network at all.
    pub offline: bool,
    /// How long to wait and how often to try again.
    pub patience: Patience,
}

/// How long to wait and how often to try again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patience {
    /// Longest wait for a connection.
    pub connect: Duration,
    /// Longest wait for the next bytes.
    pub idle: Duration,
    /// How often a broken request is made again.
    pub retries: u32,
    /// The pause before the first of these; each further one is twice as long.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            retries: 5,
            pause: Duration::from_millis(500),
        }
    }
}

// Written by hand so that a log never shows the token.
impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("offline", &self.offline)
            .field("patience", &self.patience)
            .finish()
    }
}

impl Settings {
    /// What the process's environment says.
    pub fn from_env() -> Self {
        Self::from_lookup(&|name| std::env::var(name).ok())
    }

    /// What `lookup` says of the environment's variables; an empty value counts as none. Reads the token's file.
    pub fn from_lookup(lookup: &dyn Fn(&str) -> Option<String>) -> Self {
        let environment = Environment { lookup };
        let home = environment.home();
        let endpoint = environment.text("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.into());
        Self {
            endpoint: endpoint.trim_end_matches('/').to_string(),
            cache: environment
                .path("HF_HUB_CACHE")
                .or_else(|| environment.path("HUGGINGFACE_HUB_CACHE"))
                .unwrap_or_else(|| home.join("hub")),
            token: environment.token(&home),
            offline: environment.flag("HF_HUB_OFFLINE"),
            patience: Patience::default(),
        }
    }
}

struct Environment<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
}

impl Environment<'_> {
    fn text(&self, name: &str) -> Option<String> {
        (self.lookup)(name).map(|v| v.trim().to_string()).filter(|v| !v.is_empty())
    }

    fn flag(&self, name: &str) -> bool {
        self.text(name).is_some_and(|v| matches!(v.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on"))
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        let text = self.text(name)?;
        match (text.strip_prefix("~/"), self.text("HOME")) {
            (Some(rest), Some(home)) => Some(Path::new(&home).join(rest)),
            _ => Some(text.into()),
        }
    }

    fn home(&self) -> PathBuf {
        if let Some(home) = self.path("HF_HOME") {
            return home;
        }
        let cache = self.path("XDG_CACHE_HOME").unwrap_or_else(|| {
            let user = self.text("HOME").map_or_else(std::env::temp_dir, PathBuf::from);
            user.join(".cache")
        });
        cache.join("huggingface")
    }

    fn token(&self, home: &Path) -> Option<String> {
        if self.flag("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            return None;
        }
        self.text("HF_TOKEN").or_else(|| self.text("HUGGING_FACE_HUB_TOKEN")).or_else(|| {
            let path = self.path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
            // A file that is not there or not readable means that nobody is logged in.
            let text = std::fs::read_to_string(path).ok()?;
            Some(text.trim().to_string()).filter(|t| !t.is_empty())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        let find = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string());
        Settings::from_lookup(&find)
    }

    #[test]
    fn the_cache_is_found_as_python_finds_it() {
        let cache = |variables| settings(variables).cache;
        let all = [("HOME", "/u"), ("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c")];
        assert_eq!(cache(&all[..1]), Path::new("/u/.cache/huggingface/hub"));
        assert_eq!(cache(&all[..2]), Path::new("/x/huggingface/hub"));
        assert_eq!(cache(&all[..3]), Path::new("/h/hub"));
        assert_eq!(cache(&all), Path::new("/c"));
        assert_eq!(cache(&[("HOME", "/u"), ("HF_HOME", "~/hf")]), Path::new("/u/hf/hub"));
        assert_eq!(cache(&[("HOME", "/u"), ("HF_HOME", "")]), Path::new("/u/.cache/huggingface/hub"));
    }

    #[test]
    fn the_endpoint_and_the_offline_flag() {
        assert_eq!(settings(&[]).endpoint, DEFAULT_ENDPOINT);
        assert_eq!(settings(&[("HF_ENDPOINT", "http://hub.local:8080/")]).endpoint, "http://hub.local:8080");
        for (value, offline) in [("1", true), ("TRUE", true), ("Yes", true), ("on", true), ("0", false), ("", false)] {
            assert_eq!(settings(&[("HF_HUB_OFFLINE", value)]).offline, offline, "{value}");
        }
    }

    #[test]
    fn the_token_comes_from_a_variable_or_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        let own = folder.path().join("own");
        std::fs::write(folder.path().join("token"), "filed\n").unwrap();
        std::fs::write(&own, "elsewhere").unwrap();
        let token = |more: &[(&str, &str)]| settings(&[&[("HF_HOME", home)], more].concat()).token;
        assert_eq!(token(&[]).as_deref(), Some("filed"));
        assert_eq!(token(&[("HF_TOKEN_PATH", own.to_str().unwrap())]).as_deref(), Some("elsewhere"));
        assert_eq!(token(&[("HUGGING_FACE_HUB_TOKEN", "old")]).as_deref(), Some("old"));
        assert_eq!(token(&[("HUGGING_FACE_HUB_TOKEN", "old"), ("HF_TOKEN", " new\n")]).as_deref(), Some("new"));
        assert_eq!(token(&[("HF_TOKEN", "new"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        assert_eq!(settings(&[("HF_HOME", "/nowhere")]).token, None);
    }

    #[test]
    fn the_token_is_not_shown() {
        let shown = format!("{:?}", settings(&[("HF_TOKEN", "hf_secret")]));
        assert!(!shown.contains("hf_secret"), "{shown}");
    }
}
