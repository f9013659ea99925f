//! What lies elsewhere, as `ADD` and clients name it: a file of a server, or a repository of git.

/// Something that is fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// By http or https.
    File(String),
    Repository(Repository),
}

/// `https://host/path.git#reference:folder`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Repository {
    /// As git takes it.
    pub(crate) url: String,
    /// A branch, a tag or a commit; empty for the one that the repository shows.
    pub(crate) reference: String,
    /// The part that is wanted; empty for all.
    pub(crate) folder: String,
}

/// By which repositories are reached, besides `git@host:path`. Git knows more, some of which would run programs or read this
/// host's files.
const GIT: [&str; 4] = ["http://", "https://", "git://", "ssh://"];
const LONGEST: usize = 8192;

/// Whether a client's context lies elsewhere, or is meant to: it may make no sense.
pub fn is_elsewhere(context: &str) -> bool {
    !matches!(Address::of_context(context), Ok(None))
}

impl Address {
    /// What a source of `ADD` names; `None` if that is a path of the context.
    pub(crate) fn of_source(text: &str) -> Result<Option<Self>, String> {
        let (url, _) = split(text);
        let is_http = url.starts_with("http://") || url.starts_with("https://");
        let is_git = url.starts_with("git://") || url.starts_with("ssh://") || is_of_ssh(url);
        if !is_http && !is_git {
            return Ok(None);
        }
        if text.len() > LONGEST || text.chars().any(char::is_control) {
            return Err(format!(
                "`{}` is no address",
                text.chars().take(64).collect::<String>().escape_debug()
            ));
        }
        if is_http && url.split('?').next().is_none_or(|url| url.strip_suffix(".git").is_none()) {
            return Ok(Some(Self::File(text.to_owned())));
        }
        Ok(Some(Self::Repository(Repository::of(text)?)))
    }

    /// What a client names as a context; `None` if that is nothing that could be fetched.
    pub(crate) fn of_context(text: &str) -> Result<Option<Self>, String> {
        if text.starts_with("github.com/") {
            return Self::of_source(&format!(
                "https://{}.git{}",
                with_fragment(text).0,
                with_fragment(text).1
            ));
        }
        Self::of_source(text)
    }
}

/// A path on GitHub, without the ending that it may have, and the fragment with its mark.
fn with_fragment(text: &str) -> (&str, &str) {
    let (url, fragment) = text.split_at(text.find('#').unwrap_or(text.len()));
    (url.strip_suffix(".git").unwrap_or(url), fragment)
}

fn split(text: &str) -> (&str, Option<&str>) {
    match text.split_once('#') {
        Some((url, fragment)) => (url, Some(fragment)),
        None => (text, None),
    }
}

/// `user@host:path`. A user has to be named, as files may be called `a:b`.
fn is_of_ssh(url: &str) -> bool {
    let is_word = |word: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        !word.is_empty() && !word.starts_with('-') && word.bytes().all(fits)
    };
    let Some((user, rest)) = url.split_once('@') else { return false };
    rest.split_once(':').is_some_and(|(host, path)| is_word(user) && is_word(host) && !path.is_empty())
}

impl Repository {
    fn of(text: &str) -> Result<Self, String> {
        let (url, fragment) = split(text);
        let (reference, folder) = fragment.map_or(("", ""), |all| all.split_once(':').unwrap_or((all, "")));
        check_reference(reference)?;
        if let Some(rest) = GIT.iter().find_map(|scheme| url.strip_prefix(scheme)) {
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            let host = authority.rsplit('@').next().unwrap_or_default();
            if host.is_empty() || path.is_empty() || host.starts_with('-') || authority.starts_with('-') {
                return Err(format!("`{}` is no address of a repository", shown(url)));
            }
        } else if url.split_once(':').is_some_and(|(_, path)| path.starts_with('-')) {
            return Err(format!("`{url}` is no address of a repository"));
        }
        Ok(Self { url: url.to_owned(), reference: reference.to_owned(), folder: folder.to_owned() })
    }

    /// Whether git asks ssh for it.
    pub(crate) fn is_by_ssh(&self) -> bool {
        self.url.starts_with("ssh://") || !self.url.contains("://")
    }

    /// Without a name and a password.
    pub(crate) fn shown(&self) -> String {
        shown(&self.url)
    }

    /// What stands before the host in an address of http, if anything does: a secret, perhaps.
    pub(crate) fn login(&self) -> Option<&str> {
        let (_, rest) = self.url.split_once("://")?;
        let authority = rest.split('/').next()?;
        authority.rsplit_once('@').map(|(login, _)| login).filter(|_| self.url.starts_with("http"))
    }
}

/// What git would take for an option, or for something else than a name, is refused (git-check-ref-format).
fn check_reference(reference: &str) -> Result<(), String> {
    let forbidden = |one: char| one.is_whitespace() || "~^:?*[\\".contains(one);
    if reference.starts_with('-')
        || reference.starts_with('/')
        || reference.contains("..")
        || reference.contains("@{")
        || reference.contains(forbidden)
    {
        return Err(format!("`{reference}` is no branch, tag or commit"));
    }
    Ok(())
}

fn shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    format!("{scheme}://{}{path}", authority.rsplit('@').next().unwrap_or_default())
}

/// The name of the file that an address leads to, or that its server calls it; `None` if neither says one.
pub(crate) fn file_name(address: &str, disposition: &str) -> Option<String> {
    let (_, rest) = address.split_once("://")?;
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let path = rest.find('/').map_or("", |slash| &rest[slash..]);
    let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let of_path = percent_decoded(path).map(|path| last(&path)).unwrap_or_default();
    let name = if of_path.is_empty() { last(&said(disposition)) } else { of_path };
    let is_name = !matches!(name.as_str(), "" | "." | "..") && name.len() <= 255 && !name.contains('\0');
    is_name.then_some(name)
}

/// The parameter `filename` of `attachment; filename="a b"` (RFC 6266).
fn said(disposition: &str) -> String {
    let parameters = disposition.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
    let mut named = parameters.filter(|(key, _)| key.trim().eq_ignore_ascii_case("filename"));
    let value = named.next().map_or("", |(_, value)| value.trim());
    value.trim_matches('"').to_owned()
}

fn percent_decoded(text: &str) -> Option<String> {
    let (bytes, mut decoded, mut at) = (text.as_bytes(), Vec::new(), 0);
    while let Some(&byte) = bytes.get(at) {
        if byte == b'%' {
            let digits = std::str::from_utf8(bytes.get(at + 1..at + 3)?).ok()?;
            decoded.push(u8::from_str_radix(digits, 16).ok()?);
            at += 3;
        } else {
            decoded.push(byte);
            at += 1;
        }
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn repository(text: &str) -> (String, String, String) {
        match Address::of_context(text).unwrap().unwrap() {
            Address::Repository(found) => (found.url, found.reference, found.folder),
            other @ Address::File(_) => panic!("{other:?}"),
        }
    }

    fn parts(url: &str, reference: &str, folder: &str) -> (String, String, String) {
        (url.to_owned(), reference.to_owned(), folder.to_owned())
    }

    #[test]
    fn repositories_and_files_are_told_apart() {
        for (text, expected) in [
            ("https://h/a.git", parts("https://h/a.git", "", "")),
            ("https://h/a.git#v1", parts("https://h/a.git", "v1", "")),
            ("https://u:p@h/a.git#:sub/dir", parts("https://u:p@h/a.git", "", "sub/dir")),
            ("git://h/a#b:c", parts("git://h/a", "b", "c")),
            ("git@h:a/b.git#feature/x", parts("git@h:a/b.git", "feature/x", "")),
            ("ssh://git@h:22/a", parts("ssh://git@h:22/a", "", "")),
            ("github.com/a/b", parts("https://github.com/a/b.git", "", "")),
            ("github.com/a/b.git#x", parts("https://github.com/a/b.git", "x", "")),
        ] {
            assert_eq!(repository(text), expected, "{text}");
        }
        for file in ["http://h/a.tar.gz", "https://h/a.git/", "https://h/a?x=.git", "https://h/a#b.git"] {
            assert_eq!(Address::of_source(file), Ok(Some(Address::File(file.to_owned()))), "{file}");
        }
        for path in
            ["a", "./http://x", "a:b", "file:///etc", "ext::sh -c x", "github.com/a/b", "@h:x", "-a@h:x"]
        {
            assert_eq!(Address::of_source(path), Ok(None), "{path}");
        }
    }

    #[test]
    fn what_git_would_take_for_options_is_refused() {
        for bad in [
            "https://h/a.git#--upload-pack=x",
            "https://h/a.git#a..b",
            "https://h/a.git#a b",
            "https://h/a.git#/x",
            "https://h/a.git#HEAD@{1}",
            "ssh://-oProxyCommand=x/a",
            "ssh://u@-oProxyCommand=x/a",
            "git://h",
            "git@h:-x",
            "https://h/a.git#x\n[core]",
            "http://h/\u{1b}",
        ] {
            assert!(Address::of_context(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_may_be_secret_is_not_shown() {
        let Ok(Some(Address::Repository(found))) = Address::of_source("https://me:word@h/a.git") else {
            panic!()
        };
        assert_eq!((found.shown().as_str(), found.login()), ("https://h/a.git", Some("me:word")));
        let Ok(Some(Address::Repository(found))) = Address::of_source("git@h:a.git") else { panic!() };
        assert_eq!((found.shown().as_str(), found.login()), ("git@h:a.git", None));
        assert!(found.is_by_ssh());
    }

    #[test]
    fn files_are_called_as_their_addresses_or_servers_say() {
        for (address, disposition, name) in [
            ("http://h/a/b.txt?x=/y#z", "", Some("b.txt")),
            ("http://h/a%20b", "", Some("a b")),
            ("http://h/a%2Fb", "", Some("b")),
            ("http://h/", "attachment; filename=\"x y\"", Some("x y")),
            ("http://h", "attachment; FileName=../../z", Some("z")),
            ("http://h/", "", None),
            ("http://h/a/..", "", None),
            ("http://h/%2e%2e", "", None),
            ("http://h/%00", "", None),
            ("http://h/?x=/y", "attachment; filename=a/", None),
        ] {
            assert_eq!(file_name(address, disposition).as_deref(), name, "{address} {disposition}");
        }
    }
}
