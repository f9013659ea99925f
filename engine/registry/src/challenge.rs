//! What a registry wants to see: the header `WWW-Authenticate` (RFC 9110, section 11.6.1).

/// A way to say who one is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User and password with every request.
    Basic,
    /// A token from `realm`, for `service`.
    Bearer { realm: String, service: String, scope: String },
}

/// More than any real header has.
const MOST_PARAMETERS: usize = 64;

/// All ways that one header's value names; schemes that nobody here speaks are left out.
pub(crate) fn parse(value: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut rest = value;
    while let Some((scheme, after)) = word(rest) {
        let (parameters, after) = parameters(after);
        let get = |name: &str| {
            parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
        };
        if scheme.eq_ignore_ascii_case("basic") {
            found.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = get("realm")
        {
            let (service, scope) = (get("service").unwrap_or_default(), get("scope").unwrap_or_default());
            found.push(Challenge::Bearer { realm, service, scope });
        }
        if after.len() == rest.len() || found.len() >= MOST_PARAMETERS {
            break;
        }
        rest = after;
    }
    found
}

fn word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start_matches([' ', '\t', ',']);
    let end = text.find([' ', '\t', ',', '=', '"']).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// `key=value` and `key="value"` with commas between, up to the next scheme.
fn parameters(mut text: &str) -> (Vec<(String, String)>, &str) {
    let mut found = Vec::new();
    while let Some((key, after)) = word(text) {
        let Some(value) = after.trim_start().strip_prefix('=') else { break };
        let value = value.trim_start();
        let (value, after) = if let Some(quoted) = value.strip_prefix('"') {
            quoted_string(quoted)
        } else {
            let end = value.find([' ', '\t', ',']).unwrap_or(value.len());
            (value[..end].to_owned(), &value[end..])
        };
        if found.len() < MOST_PARAMETERS {
            found.push((key.to_owned(), value));
        }
        text = after;
    }
    (found, text)
}

fn quoted_string(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            _ => value.push(character),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: &str, scope: &str) -> Challenge {
        Challenge::Bearer { realm: realm.into(), service: service.into(), scope: scope.into() }
    }

    #[test]
    fn challenges_of_real_registries_are_read() {
        let hub = r#"Bearer realm="https://auth.example.com/token",service="registry.example.com",scope="repository:a/b:pull,push""#;
        assert_eq!(
            parse(hub),
            [bearer("https://auth.example.com/token", "registry.example.com", "repository:a/b:pull,push")]
        );
        assert_eq!(parse(r#"Basic realm="Registry Realm""#), [Challenge::Basic]);
        assert_eq!(parse("basic"), [Challenge::Basic]);
        let both = r#"Negotiate, Basic realm="x", charset="UTF-8", Bearer realm = "https://r" , service=s"#;
        assert_eq!(parse(both), [Challenge::Basic, bearer("https://r", "s", "")]);
        assert_eq!(parse(r#"Bearer realm="a\"b""#), [bearer("a\"b", "", "")]);
    }

    #[test]
    fn what_is_no_challenge_is_none() {
        for text in
            ["", ",", "=", "\"", "Bearer", "Bearer service=x", "Bearer realm", "a=b=c", "ä ö=\"", "=,=,="]
        {
            assert_eq!(parse(text), [], "{text}");
        }
    }
}
