//! What a page in a browser can make the browser send to a port of this machine is refused where nobody has to prove who they
//! are: requests of other sites, and of names that lead here only because somebody's DNS says so.

use std::net::IpAddr;

use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};

use super::ApiError;

/// Browsers say with these where a request comes from; no client of the API does. (`Sec-Fetch-Mode` alone is Node's.)
const FROM_A_PAGE: [HeaderName; 2] = [header::ORIGIN, HeaderName::from_static("sec-fetch-site")];
/// What a page may send anywhere without asking first.
const SIMPLE_CONTENT: [&str; 3] = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"];

/// Refuses a request that a browser may have been made to send.
pub(super) fn refuse(request: &Parts) -> Result<(), ApiError> {
    let refused = |why: String| Err(ApiError::new(StatusCode::FORBIDDEN, why));
    if let Some(name) = FROM_A_PAGE.iter().find(|name| request.headers.contains_key(*name)) {
        return refused(format!(
            "requests of browsers are not served without TLS: there is a header `{name}`"
        ));
    }
    let host = text(&request.headers, &header::HOST).or_else(|| request.uri.host()).unwrap_or_default();
    if !names_this_machine(host) {
        return refused(format!(
            "the host {:?} is not this machine: without TLS, an address or `localhost` has to be named",
            host.chars().take(100).collect::<String>()
        ));
    }
    let content = text(&request.headers, &header::CONTENT_TYPE).unwrap_or_default();
    let content = content.split(';').next().unwrap_or_default().trim();
    // Other methods, a page has to ask for first. The docker client calls an empty body plain text.
    let may_be_simple = request.method == Method::POST && has_body(&request.headers);
    if may_be_simple && SIMPLE_CONTENT.iter().any(|simple| simple.eq_ignore_ascii_case(content)) {
        return Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!(
                "a body of the type `{content}` is what any page can send; the API takes `application/json`"
            ),
        ));
    }
    Ok(())
}

fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(header::TRANSFER_ENCODING)
        || text(headers, &header::CONTENT_LENGTH).is_some_and(|length| length.trim() != "0")
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Whether a `Host` is an address, or a name that never leads elsewhere.
fn names_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            return (port.is_empty() || port.starts_with(':')) && address.parse::<IpAddr>().is_ok();
        }
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.to_ascii_lowercase();
    name.parse::<IpAddr>().is_ok() || name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use axum::http::Request;

    use super::*;

    fn status(uri: &str, headers: &[(&str, &str)]) -> u16 {
        let mut request = Request::post(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        refuse(&parts).err().map_or(200, |error| error.status.as_u16())
    }

    #[test]
    fn clients_pass_and_pages_do_not() {
        for host in
            ["127.0.0.1:2375", "localhost", "LOCALHOST:1", "[::1]:2375", "[::1]", "api.moby.localhost"]
        {
            assert_eq!(status("/containers/create", &[("host", host)]), 200, "{host}");
            let node = [("host", host), ("sec-fetch-mode", "cors")];
            assert_eq!(status("/containers/x/start", &node), 200, "{host}");
            let content = ("content-type", "application/json; charset=utf-8");
            assert_eq!(status("/containers/create", &[("host", host), content]), 200, "{host}");
        }
        for host in
            ["evil.example:2375", "localhost.evil.example", "127.0.0.1.evil.example", "", "[x]", "[::1]x"]
        {
            assert_eq!(status("/_ping", &[("host", host)]), 403, "{host}");
        }
        assert_eq!(status("http://evil.example/_ping", &[]), 403);
        assert_eq!(status("/_ping", &[]), 403);
        for header in [("origin", "null"), ("sec-fetch-site", "same-origin")] {
            assert_eq!(status("/containers/x/kill", &[("host", "127.0.0.1"), header]), 403, "{header:?}");
        }
        for content in ["text/plain", "Text/Plain;charset=utf-8", "multipart/form-data; boundary=x"] {
            let headers = [("host", "127.0.0.1"), ("content-type", content), ("content-length", "2")];
            assert_eq!(status("/containers/create", &headers), 415, "{content}");
            let empty = [("host", "127.0.0.1"), ("content-type", content), ("content-length", "0")];
            assert_eq!(status("/containers/x/start", &empty), 200, "{content}");
        }
    }
}
