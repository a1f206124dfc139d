//! Requests to the hub: redirects, the token, faults and their repetition.

use std::io;
use std::time::Duration;

use ureq::http::header::{AUTHORIZATION, LOCATION, RANGE};
use ureq::http::{HeaderValue, Response, Uri};
use ureq::typestate::WithoutBody;
use ureq::{Agent, Body, RequestBuilder};

use super::HubError;
use super::settings::{Patience, Settings};

const MOST_REDIRECTS: usize = 10;

/// The server's answer to a request that did not break.
pub(super) type Reply = Response<Body>;

/// Why a request came to nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// There is no connection at all.
    Unreachable { address: String, reason: String },
    /// The connection broke; another may hold.
    Broken(String),
    /// The server is busy or out of order for now.
    Busy { address: String, status: u16, reason: String },
    /// It would come to nothing again.
    Final(HubError),
}

impl Failure {
    /// Why, in few words.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Unreachable { address, reason } => format!("no connection to {address}: {reason}"),
            Self::Broken(reason) => reason.clone(),
            Self::Busy { address, status, .. } => format!("{address} answers {status}"),
            Self::Final(error) => error.to_string(),
        }
    }

    /// The error, where it is not tried again.
    pub(super) fn into_error(self, what: &str, times: u32, kept: String) -> HubError {
        match self {
            Self::Unreachable { address, reason } => HubError::Unreachable { address, reason },
            Self::Broken(reason) => HubError::Broken { what: what.into(), times, reason, kept },
            Self::Busy { address, status, reason } => HubError::Status { address, status, reason },
            Self::Final(error) => error,
        }
    }
}

/// The pauses between the attempts of one request.
pub(super) struct Backoff<'a> {
    patience: &'a Patience,
    /// How often it came to nothing.
    pub(super) broken: u32,
}

impl<'a> Backoff<'a> {
    pub(super) fn new(patience: &'a Patience) -> Self {
        Self { patience, broken: 0 }
    }

    /// Counts a failure and waits; false where it is time to give up.
    pub(super) fn again(&mut self) -> bool {
        self.broken += 1;
        if self.broken > self.patience.retries {
            return false;
        }
        let pause = self.patience.pause.saturating_mul(1 << (self.broken - 1).min(6));
        std::thread::sleep(pause.min(Duration::from_secs(30)));
        true
    }
}

/// An HTTP client that knows one hub.
pub(super) struct Client {
    agent: Agent,
    pub(super) endpoint: String,
    token: Option<String>,
    pub(super) patience: Patience,
}

impl Client {
    pub(super) fn new(settings: &Settings) -> Self {
        let patience = settings.patience.clone();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Redirects are followed here: a token must not leave the endpoint, and a HEAD request must not follow to a
            // CDN, which does not know the hub's headers.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            // Compressed on the way, a file would have neither the size nor the ranges that the hub announces.
            .accept_encoding("identity")
            .timeout_resolve(Some(patience.connect))
            .timeout_connect(Some(patience.connect))
            .timeout_per_read(Some(patience.idle))
            .timeout_per_write(Some(patience.idle))
            .build();
        Self { agent: config.into(), endpoint: settings.endpoint.clone(), token: settings.token.clone(), patience }
    }

    /// GET, from byte `from` on, once; follows all redirects.
    pub(super) fn get(&self, address: &str, from: u64) -> Result<Reply, Failure> {
        self.follow(address, &|url| self.send(self.agent.get(url), url, from), &|_, _| true)
    }

    /// HEAD; follows the redirects within the endpoint, up to the answer that describes the file.
    pub(super) fn head(&self, address: &str) -> Result<Reply, HubError> {
        let onward = |reply: &Reply, next: &str| self.is_own(next) && header(reply, "x-linked-etag").is_none();
        self.retrying(address, &|| self.follow(address, &|url| self.send(self.agent.head(url), url, 0), &onward))
    }

    /// A small document; `refused` explains an answer that is none.
    pub(super) fn document(&self, address: &str, refused: &dyn Fn(&Reply) -> HubError) -> Result<Vec<u8>, HubError> {
        self.retrying(address, &|| {
            let mut reply = self.get(address, 0)?;
            if !reply.status().is_success() {
                return Err(Failure::Final(refused(&reply)));
            }
            reply.body_mut().with_config().limit(1 << 28).read_to_vec().map_err(|e| failure(address, e))
        })
    }

    fn retrying<T>(&self, address: &str, attempt: &dyn Fn() -> Result<T, Failure>) -> Result<T, HubError> {
        let mut backoff = Backoff::new(&self.patience);
        loop {
            match attempt() {
                Err(Failure::Broken(_) | Failure::Busy { .. }) if backoff.again() => {}
                Err(failure) => return Err(failure.into_error(address, backoff.broken, "try again later".into())),
                Ok(value) => return Ok(value),
            }
        }
    }

    /// Sends until the answer is no redirect, or one that `onward` does not want followed.
    fn follow(
        &self,
        address: &str,
        send: &dyn Fn(&str) -> Result<Reply, Failure>,
        onward: &dyn Fn(&Reply, &str) -> bool,
    ) -> Result<Reply, Failure> {
        if origin(&self.endpoint).is_none() {
            return Err(Failure::Final(HubError::Endpoint(self.endpoint.clone())));
        }
        let mut url = address.to_string();
        for _ in 0..=MOST_REDIRECTS {
            let reply = send(&url)?;
            match redirect(&url, &reply) {
                Some(next) if onward(&reply, &next) => url = next,
                _ => return Ok(reply),
            }
        }
        Err(Failure::Final(HubError::Protocol { address: address.into(), message: "redirects without end".into() }))
    }

    fn send(&self, mut request: RequestBuilder<WithoutBody>, url: &str, from: u64) -> Result<Reply, Failure> {
        if let Some(token) = self.token.as_deref().filter(|_| self.is_own(url)) {
            let mut value =
                HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| Failure::Final(HubError::Token))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        let reply = request.call().map_err(|e| failure(url, e))?;
        let status = reply.status().as_u16();
        if matches!(status, 408 | 429 | 500..) {
            return Err(Failure::Busy { address: bare(url), status, reason: reason(&reply) });
        }
        Ok(reply)
    }

    /// Whether requests to the endpoint carry a token.
    pub(super) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Whether an address is on the endpoint's own host: scheme, name and port.
    fn is_own(&self, url: &str) -> bool {
        origin(url).is_some_and(|o| Some(o) == origin(&self.endpoint))
    }
}

/// A header's text.
pub(super) fn header<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
    reply.headers().get(name)?.to_str().ok()
}

/// The server's own words about a refusal.
pub(super) fn reason(reply: &Reply) -> String {
    let words = header(reply, "x-error-message").unwrap_or("no reason is given");
    words.chars().filter(|c| !c.is_control()).take(300).collect()
}

/// An address without its query, which may hold a CDN's signature.
fn bare(url: &str) -> String {
    url.split('?').next().unwrap_or(url).to_string()
}

/// Scheme, host and port as they are written.
fn server(url: &str) -> String {
    bare(url).split('/').take(3).collect::<Vec<_>>().join("/")
}

fn redirect(url: &str, reply: &Reply) -> Option<String> {
    if !matches!(reply.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let target = header(reply, LOCATION.as_str())?;
    if target.starts_with("http://") || target.starts_with("https://") {
        return Some(target.to_string());
    }
    let (scheme, rest) = url.split_once("://")?;
    if target.starts_with("//") {
        return Some(format!("{scheme}:{target}"));
    }
    let host = rest.split('/').next()?;
    if target.starts_with('/') {
        return Some(format!("{scheme}://{host}{target}"));
    }
    let folder = bare(url).rsplit_once('/').map(|(folder, _)| folder.to_string())?;
    Some(format!("{folder}/{target}"))
}

fn origin(url: &str) -> Option<(String, String, u16)> {
    let url: Uri = url.parse().ok()?;
    let scheme = url.scheme_str()?.to_ascii_lowercase();
    let port = url.port_u16().or(match scheme.as_str() {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    })?;
    Some((scheme, url.host()?.to_ascii_lowercase(), port))
}

/// What a fault of the transport means.
pub(super) fn failure(url: &str, error: ureq::Error) -> Failure {
    let unreachable = |reason: String| Failure::Unreachable { address: server(url), reason };
    match error {
        ureq::Error::HostNotFound => unreachable("the host's name is not known".into()),
        ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
            unreachable("no answer in time".into())
        }
        e @ (ureq::Error::BadUri(_) | ureq::Error::Http(_)) => {
            Failure::Final(HubError::Protocol { address: bare(url), message: e.to_string() })
        }
        ureq::Error::Timeout(_) => Failure::Broken("no bytes in time".into()),
        ureq::Error::Io(e) if broke(e.kind()) => Failure::Broken(e.to_string()),
        // Also a name that the resolver does not find and a certificate that nobody vouches for.
        ureq::Error::Io(e) => unreachable(e.to_string()),
        e @ (ureq::Error::ConnectionFailed
        | ureq::Error::ConnectProxyFailed(_)
        | ureq::Error::InvalidProxyUrl
        | ureq::Error::Tls(_)
        | ureq::Error::Rustls(_)) => unreachable(e.to_string()),
        e => Failure::Broken(e.to_string()),
    }
}

/// Whether there was a connection.
fn broke(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, Other, TimedOut, UnexpectedEof, WouldBlock,
    };
    let reset = matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof);
    reset || matches!(kind, Other | TimedOut | WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(location: &str) -> Option<String> {
        let reply =
            Response::builder().status(302).header("location", location).body(Body::builder().data("")).unwrap();
        redirect("https://hub.co/org/name/resolve/main/a?b=c/d", &reply)
    }

    #[test]
    fn redirects_are_resolved_against_the_address() {
        assert_eq!(target("http://cdn.co/x?y").as_deref(), Some("http://cdn.co/x?y"));
        assert_eq!(target("/api/x").as_deref(), Some("https://hub.co/api/x"));
        assert_eq!(target("//cdn.co/x").as_deref(), Some("https://cdn.co/x"));
        assert_eq!(target("b").as_deref(), Some("https://hub.co/org/name/resolve/main/b"));
    }

    #[test]
    fn the_token_stays_with_scheme_host_and_port() {
        let settings = Settings::from_lookup(&|name| (name == "HF_ENDPOINT").then(|| "https://hub.co/".into()));
        let client = Client::new(&settings);
        for own in ["https://hub.co/x", "https://HUB.co:443/x"] {
            assert!(client.is_own(own), "{own}");
        }
        for other in
            ["http://hub.co/x", "https://hub.co:8443/x", "https://hub.co.evil.com/", "https://cdn.hub.co/", "x"]
        {
            assert!(!client.is_own(other), "{other}");
        }
    }
}
