//! Versions of the API: which are spoken, and the `/v1.xx` in front of a path.

use axum::http::Uri;
use axum::http::uri::PathAndQuery;

use super::ApiError;

/// The newest version that is spoken here.
pub const NEWEST: ApiVersion = ApiVersion { major: 1, minor: 51 };
/// The oldest.
pub const OLDEST: ApiVersion = ApiVersion { major: 1, minor: 24 };

/// The version that a client asked for; a request extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    pub major: u16,
    pub minor: u16,
}

impl ApiVersion {
    /// Whether a client of this version is one of `1.minor` or newer.
    pub fn is_from(self, minor: u16) -> bool {
        self >= ApiVersion { major: 1, minor }
    }

    /// The one that a request is of.
    pub fn of(extensions: &axum::http::Extensions) -> Self {
        extensions.get().copied().unwrap_or(NEWEST)
    }
}

impl std::fmt::Display for ApiVersion {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

/// Takes the version off the path. Without one, the newest is meant.
pub fn strip(uri: &Uri) -> Result<(Uri, ApiVersion), ApiError> {
    let Some((version, rest)) = split(uri.path()) else { return Ok((uri.clone(), NEWEST)) };
    if version < OLDEST {
        return Err(ApiError::bad_request(format!(
            "client version {version} is too old. Minimum supported API version is {OLDEST}, please upgrade your client \
             to a newer version"
        )));
    }
    if version > NEWEST {
        return Err(ApiError::bad_request(format!(
            "client version {version} is too new. Maximum supported API version is {NEWEST}"
        )));
    }
    let rewritten = match uri.query() {
        Some(query) => format!("{rest}?{query}"),
        None => rest.to_owned(),
    };
    let path = rewritten.parse::<PathAndQuery>().map_err(|_| ApiError::not_found("page not found"))?;
    Ok((Uri::from(path), version))
}

fn split(path: &str) -> Option<(ApiVersion, &str)> {
    let rest = path.strip_prefix("/v")?;
    let end = rest.find('/')?;
    let (major, minor) = rest[..end].split_once('.')?;
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(major) || !digits(minor) {
        return None;
    }
    Some((ApiVersion { major: major.parse().ok()?, minor: minor.parse().ok()? }, &rest[end..]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn versions_are_taken_off_or_refused() {
        let stripped =
            |text: &str| strip(&text.parse().unwrap()).map(|(uri, version)| (uri.to_string(), version.minor));
        assert_eq!(stripped("/v1.41/images/json?all=1").unwrap(), ("/images/json?all=1".to_owned(), 41));
        assert_eq!(stripped("/_ping").unwrap(), ("/_ping".to_owned(), 51));
        // Not versions, so they are looked for as they are.
        for path in ["/volumes", "/v1/x", "/vx.y/z", "/v1.41"] {
            assert_eq!(stripped(path).unwrap().0, path);
        }
        assert_eq!(
            stripped("/v1.10/info").unwrap_err().message,
            "client version 1.10 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer \
             version"
        );
        assert_eq!(
            stripped("/v1.99/info").unwrap_err().message,
            "client version 1.99 is too new. Maximum supported API version is 1.51"
        );
    }
}
