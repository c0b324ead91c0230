//! The page over HTTP.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | the page as it is now |
//! | `GET /changes` | server-sent events: every part as it is, then those that change |
//! | `POST /stop` | with the job's token as `Authorization: Bearer ...`: the job drains and ends; not where the page is read-only |

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use futures::stream;
use serde_json::json;
use stillhouse_runtime::Secret;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::painter::{Painted, Painter};
use crate::report::html::{Section, render_live};
use crate::watch::serve::Glance;

/// Least time between two changes of a page.
const PAUSE: Duration = Duration::from_millis(300);
/// So that a page notices a coordinator that is gone.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
/// What a wrong token costs.
const PENALTY: Duration = Duration::from_millis(500);
/// What every answer says beside the page's own policy, which cannot forbid this.
const HEADERS: [(HeaderName, &str); 4] = [
    (CONTENT_SECURITY_POLICY, "frame-ancestors 'none'"),
    (REFERRER_POLICY, "no-referrer"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (CACHE_CONTROL, "no-store"),
];

/// What answers are made of.
#[derive(Clone, Debug)]
pub(super) struct Site {
    pub(super) glance: Glance,
    pub(super) secret: Secret,
    pub(super) stop: Option<CancellationToken>,
    pub(super) closing: CancellationToken,
    pub(super) seats: Arc<Semaphore>,
    /// Whether it is for this host alone.
    pub(super) is_local: bool,
    pub(super) painter: Arc<Mutex<Painter>>,
}

impl Site {
    async fn paint(&self) -> Option<Painted> {
        let painter = self.painter.clone();
        let painted = tokio::task::spawn_blocking(move || {
            // A painter that failed half-way draws everything that is missing the next time.
            painter.lock().unwrap_or_else(PoisonError::into_inner).paint()
        });
        painted.await.ok().flatten()
    }
}

pub(super) fn router(site: Site) -> Router {
    let looks = Router::new().route("/", get(page)).route("/changes", get(changes));
    let router = match site.stop {
        Some(_) => looks.route("/stop", post(stop)),
        None => looks,
    };
    router.layer(from_fn_with_state(site.is_local, guard)).with_state(site)
}

/// Draws what each step adds as it is done, so that nobody waits for pictures of rounds that are long over.
pub(super) async fn keep_ready(site: Site) {
    let mut glance = site.glance.clone();
    while glance.stepped().await {
        let _painted = site.paint().await;
    }
}

/// A page of this host is not for others: a name that somebody made resolve to it is refused.
async fn guard(State(is_local): State<bool>, request: Request, next: Next) -> Response {
    let mut answer = if is_local && !names_this_host(&request) {
        (StatusCode::FORBIDDEN, "this page is for its own host alone\n").into_response()
    } else {
        next.run(request).await
    };
    for (name, value) in HEADERS {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

fn names_this_host(request: &Request) -> bool {
    let header = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let named = header.or(request.uri().authority().map(|authority| authority.as_str()));
    let Some(host) = named.and_then(|named| named.parse::<axum::http::uri::Authority>().ok()) else {
        return false;
    };
    let name = host.host().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

async fn page(State(site): State<Site>) -> Response {
    match site.paint().await {
        Some(Painted { summary, parts }) => {
            let parts = parts.iter().map(|part| (part.section, &*part.html));
            Html(render_live(&summary, parts, site.stop.is_some())).into_response()
        }
        None => (StatusCode::SERVICE_UNAVAILABLE, "the job has not begun yet\n").into_response(),
    }
}

/// Somebody who looks.
struct Looker {
    site: Site,
    glance: Glance,
    /// Versions that it has.
    seen: HashMap<Section, u64>,
    ready: VecDeque<Event>,
    is_first: bool,
    is_over: bool,
    _seat: OwnedSemaphorePermit,
}

async fn changes(State(site): State<Site>) -> Response {
    let Ok(seat) = site.seats.clone().try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many pages are open\n").into_response();
    };
    let looker = Looker {
        glance: site.glance.clone(),
        site,
        seen: HashMap::new(),
        ready: VecDeque::from([Event::default().event("hello").data(env!("CARGO_PKG_VERSION"))]),
        is_first: true,
        is_over: false,
        _seat: seat,
    };
    let events = stream::unfold(looker, |mut looker| async move {
        let event = looker.next().await?;
        Some((Ok::<_, Infallible>(event), looker))
    });
    // A comment would not reach the page's script.
    let alive = KeepAlive::new()
        .interval(SIGN_OF_LIFE)
        .event(Event::default().event("alive").data(""));
    Sse::new(events).keep_alive(alive).into_response()
}

impl Looker {
    /// The next event; none once the job is over.
    async fn next(&mut self) -> Option<Event> {
        while self.ready.is_empty() {
            if self.is_over {
                return None;
            }
            if !self.is_first {
                self.wait().await;
            }
            self.is_first = false;
            self.look().await;
        }
        self.ready.pop_front()
    }

    /// Waits until something changes, or the job is over.
    async fn wait(&mut self) {
        let has_changed = tokio::select! {
            has_changed = self.glance.changed() => has_changed,
            () = self.site.closing.cancelled() => false,
        };
        if has_changed {
            tokio::time::sleep(PAUSE).await;
        } else {
            self.is_over = true;
        }
    }

    async fn look(&mut self) {
        let Some(Painted { summary, parts }) = self.site.paint().await else {
            return;
        };
        for part in parts {
            if self.seen.insert(part.section, part.version) != Some(part.version) {
                let told = json!({ "name": part.section.name(), "html": &*part.html });
                self.ready
                    .push_back(Event::default().event("part").data(told.to_string()));
            }
        }
        if self.is_over {
            let over = Event::default().event("over").data(summary.state.name());
            self.ready.push_back(over);
        }
    }
}

async fn stop(State(site): State<Site>, headers: HeaderMap) -> Response {
    if !is_allowed(&site.secret, &headers) {
        tracing::warn!("somebody asked to stop the job without its token");
        tokio::time::sleep(PENALTY).await;
        return (StatusCode::UNAUTHORIZED, "the token is another\n").into_response();
    }
    tracing::info!("stopped from the page; running the same command again goes on");
    if let Some(stop) = site.stop {
        stop.cancel();
    }
    (StatusCode::ACCEPTED, "what is sent is settled, then the job ends\n").into_response()
}

fn is_allowed(secret: &Secret, headers: &HeaderMap) -> bool {
    let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer "));
    let given = given.and_then(|token| Secret::from_hex(token).ok());
    // Digests are compared in constant time.
    given.is_some_and(|given| blake3::Hash::from_bytes(*given.expose()) == blake3::Hash::from_bytes(*secret.expose()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn request(host: &str) -> Request {
        Request::builder()
            .uri("/")
            .header(HOST, host)
            .body(Body::empty())
            .expect("a request")
    }

    #[test]
    fn a_page_of_this_host_answers_to_its_own_names_alone() {
        for host in ["localhost:7780", "127.0.0.1:1", "127.8.8.8", "[::1]:7780", "LOCALHOST"] {
            assert!(names_this_host(&request(host)), "{host}");
        }
        for host in [
            "evil.example:7780",
            "10.0.0.1",
            "localhost.evil.example",
            "",
            "127.0.0.1.nip.io",
        ] {
            assert!(!names_this_host(&request(host)), "{host}");
        }
    }

    #[test]
    fn only_the_token_is_the_token() {
        let secret = Secret::from_hex(&"ab".repeat(32)).expect("a secret");
        let with =
            |value: &str| HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(value).expect("a value"))]);
        assert!(is_allowed(&secret, &with(&format!("Bearer {}", "ab".repeat(32)))));
        for wrong in [
            "",
            "Bearer ",
            &"ab".repeat(32),
            &format!("Bearer {}", "ac".repeat(32)),
            "Bearer abab",
        ] {
            assert!(!is_allowed(&secret, &with(wrong)), "{wrong}");
        }
        assert!(!is_allowed(&secret, &HeaderMap::new()));
    }
}
