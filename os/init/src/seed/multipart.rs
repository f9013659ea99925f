//! MIME multipart, as user data of several kinds comes in: one level, bounded, each part decoded to text.

use base64::Engine as _;

/// More than any tool puts together.
const MOST_PARTS: usize = 64;
const MOST_HEADERS: usize = 64;
/// RFC 2046 allows 70.
const LONGEST_BOUNDARY: usize = 200;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum MultipartError {
    #[error("The multipart user data names no boundary")]
    NoBoundary,
    #[error("The boundary of the multipart user data does not occur in it")]
    NoParts,
    #[error("The multipart user data has more than {MOST_PARTS} parts; the rest is ignored")]
    ManyParts,
    #[error("The multipart user data ends without its closing boundary; its last part is used as it is")]
    Unfinished,
    #[error("The headers of part {number} of the user data are not understood")]
    Headers { number: usize },
    #[error("Part {number} of the user data is not {encoding}")]
    Content { number: usize, encoding: &'static str },
    #[error(
        "Part {number} of the user data has the encoding `{encoding}`; there are 7bit, 8bit, binary and base64"
    )]
    Encoding { number: usize, encoding: String },
}

/// A part, decoded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Counted from 1, for those who have to find it.
    pub(super) number: usize,
    /// In lower case, without parameters: `text/cloud-config`.
    pub(super) kind: String,
    /// Lines end as they do here.
    pub(super) content: String,
}

/// Whether a text starts with the headers of a multipart message.
pub(super) fn is_multipart(text: &str) -> bool {
    let first = text.lines().next().unwrap_or_default();
    first.split_once(':').is_some_and(|(name, _)| {
        name.eq_ignore_ascii_case("content-type") || name.eq_ignore_ascii_case("mime-version")
    })
}

/// The parts that can be read, and complaints about the others.
pub(super) fn parse(text: &str) -> (Vec<Part>, Vec<MultipartError>) {
    let (mut parts, mut complaints) = (Vec::new(), Vec::new());
    let boundary = match head(text, 0) {
        Ok((headers, _)) => boundary(&headers),
        Err(failure) => return (parts, vec![failure]),
    };
    let Some(boundary) = boundary else { return (parts, vec![MultipartError::NoBoundary]) };
    let (sections, is_finished) = split(text, &boundary);
    if sections.is_empty() {
        complaints.push(MultipartError::NoParts);
    } else if !is_finished {
        complaints.push(MultipartError::Unfinished);
    }
    for (index, section) in sections.iter().enumerate() {
        if index == MOST_PARTS {
            complaints.push(MultipartError::ManyParts);
            break;
        }
        match part(section, index + 1) {
            Ok(part) => parts.push(part),
            Err(failure) => complaints.push(failure),
        }
    }
    (parts, complaints)
}

/// What lies between the boundaries, and whether the last of them was there.
fn split<'a>(text: &'a str, boundary: &str) -> (Vec<&'a str>, bool) {
    let mut sections = Vec::new();
    let mut start = None;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let mark = line.trim_end().strip_prefix("--").and_then(|line| line.strip_prefix(boundary));
        if let Some(rest) = mark.filter(|rest| matches!(*rest, "" | "--")) {
            if let Some(start) = start {
                // The line end before a boundary belongs to the boundary.
                let section: &str = &text[start..at];
                let section = section.strip_suffix('\n').unwrap_or(section);
                sections.push(section.strip_suffix('\r').unwrap_or(section));
            }
            if rest == "--" {
                return (sections, true);
            }
            // One more than are read is enough to know that there are more.
            if sections.len() > MOST_PARTS {
                return (sections, true);
            }
            start = Some(at + line.len());
        }
        at += line.len();
    }
    sections.extend(start.map(|start| &text[start..]));
    (sections, false)
}

fn part(section: &str, number: usize) -> Result<Part, MultipartError> {
    let (headers, content) = head(section, number)?;
    let kind = value(&headers, "content-type").unwrap_or("text/plain");
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let encoding = value(&headers, "content-transfer-encoding").unwrap_or("7bit").to_ascii_lowercase();
    let content = match encoding.as_str() {
        "7bit" | "8bit" | "binary" => content.to_owned(),
        "base64" => {
            let compact: String = content.split_whitespace().collect();
            let bytes = base64::engine::general_purpose::STANDARD
                .decode(compact)
                .map_err(|_| MultipartError::Content { number, encoding: "base64" })?;
            String::from_utf8(bytes)
                .map_err(|_| MultipartError::Content { number, encoding: "text in UTF-8" })?
        }
        _ => return Err(MultipartError::Encoding { number, encoding }),
    };
    Ok(Part { number, kind, content: content.replace("\r\n", "\n") })
}

/// Headers with names in lower case, and what follows the empty line after them.
type Head<'a> = (Vec<(String, String)>, &'a str);

fn head(text: &str, number: usize) -> Result<Head<'_>, MultipartError> {
    let mut headers: Vec<(String, String)> = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        at += line.len();
        let line = line.trim_end();
        if line.is_empty() {
            return Ok((headers, &text[at..]));
        }
        if line.starts_with([' ', '\t']) {
            // A long header goes on in the next line.
            let (_, value) = headers.last_mut().ok_or(MultipartError::Headers { number })?;
            value.push(' ');
            value.push_str(line.trim());
            continue;
        }
        let (name, value) = line.split_once(':').ok_or(MultipartError::Headers { number })?;
        if headers.len() == MOST_HEADERS || name.is_empty() || name.contains([' ', '\t']) {
            return Err(MultipartError::Headers { number });
        }
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    // Nothing but headers: an empty part.
    Ok((headers, ""))
}

fn value<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
}

/// The boundary of a `Content-Type: multipart/…`.
fn boundary(headers: &[(String, String)]) -> Option<String> {
    let (kind, mut rest) = value(headers, "content-type")?.split_once(';')?;
    if !kind.trim().to_ascii_lowercase().starts_with("multipart/") {
        return None;
    }
    loop {
        let (name, after) = rest.split_once('=')?;
        let after = after.trim_start();
        let (found, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(';').unwrap_or((after, "")),
        };
        if name.trim_matches([' ', '\t', ';']).eq_ignore_ascii_case("boundary") {
            let found = found.trim_end();
            return (!found.is_empty() && found.len() <= LONGEST_BOUNDARY).then(|| found.to_owned());
        }
        rest = next;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MESSAGE: &str = "Content-Type: multipart/mixed; charset=\"x=y;z\";\n boundary=\"==1==\"\n\
        MIME-Version: 1.0\n\nA preamble\n--==1==\n\
        Content-Type: text/cloud-config; charset=\"us-ascii\"\nMIME-Version: 1.0\n\
        Content-Transfer-Encoding: 7bit\nContent-Disposition: attachment; filename=\"c.yaml\"\n\n\
        #cloud-config\nhostname: x\n\n--==1==\nContent-Type: TEXT/X-ShellScript\n\
        Content-Transfer-Encoding: Base64\n\nIyEvYmluL3No\nCmVjaG8gaGkK\n--==1==--\nAn epilogue\n--==1==\n";

    fn check(text: &str) {
        let (parts, complaints) = parse(text);
        assert_eq!(complaints, []);
        assert_eq!(parts.len(), 2);
        assert_eq!(parts[0].kind, "text/cloud-config");
        assert_eq!(parts[0].content, "#cloud-config\nhostname: x\n");
        assert_eq!(parts[1].kind, "text/x-shellscript");
        assert_eq!(parts[1].content, "#!/bin/sh\necho hi\n");
        assert_eq!(parts[1].number, 2);
    }

    #[test]
    fn parts_are_found_with_either_line_end() {
        check(MESSAGE);
        check(&MESSAGE.replace('\n', "\r\n"));
        check(&format!("mime-version: 1.0\n{}", MESSAGE.replacen("MIME-Version: 1.0\n", "", 1)));
    }

    #[test]
    fn a_multipart_is_told_by_its_first_line() {
        assert!(is_multipart(MESSAGE));
        assert!(is_multipart("MIME-VERSION: 1.0\r\n"));
        for text in ["", "#cloud-config\ncontent-type: x", "#!/bin/sh\n", "\n", "Content-Type"] {
            assert!(!is_multipart(text), "{text}");
        }
    }

    #[test]
    fn a_boundary_is_needed() {
        for head in [
            "Content-Type: multipart/mixed",
            "Content-Type: multipart/mixed; boundary=",
            "Content-Type: multipart/mixed; boundary=\"x",
            "Content-Type: multipart/mixed; charset",
            "Content-Type: text/plain; boundary=x",
            "MIME-Version: 1.0",
            &format!("Content-Type: multipart/mixed; boundary={}", "x".repeat(LONGEST_BOUNDARY + 1)),
        ] {
            let (parts, complaints) = parse(&format!("{head}\n\n--x\n\nhi\n--x--\n"));
            assert_eq!((parts.len(), complaints), (0, vec![MultipartError::NoBoundary]), "{head}");
        }
        let (parts, complaints) = parse("Content-Type: multipart/mixed; boundary=y\n\n--x\n\nhi\n--x--\n");
        assert_eq!((parts.len(), complaints), (0, vec![MultipartError::NoParts]));
    }

    #[test]
    fn a_message_that_breaks_off_is_said() {
        for text in ["hi", "hi\n", ""] {
            let (parts, complaints) =
                parse(&format!("Content-Type: multipart/mixed; boundary=x\n\n--x\n\n{text}"));
            assert_eq!(parts[0].content, text);
            assert_eq!(complaints, [MultipartError::Unfinished]);
        }
        let (parts, _) = parse("Content-Type: multipart/mixed; boundary=x\n\n--x");
        assert_eq!(parts.len(), 1);
    }

    #[test]
    fn what_is_nested_is_one_part_of_its_kind() {
        let inner = "Content-Type: multipart/mixed; boundary=y\n\n--y\n\nhi\n--y--\n";
        let (parts, complaints) =
            parse(&format!("Content-Type: multipart/mixed; boundary=x\n\n--x\n{inner}\n--x--\n"));
        assert_eq!((parts.len(), complaints), (1, vec![]));
        assert_eq!(parts[0].kind, "multipart/mixed");
    }

    #[test]
    fn nothing_is_endless() {
        let begin = "Content-Type: multipart/mixed; boundary=x\n\n";
        let (parts, complaints) = parse(&format!("{begin}{}--x--\n", "--x\n\nhi\n".repeat(10_000)));
        assert_eq!((parts.len(), complaints), (MOST_PARTS, vec![MultipartError::ManyParts]));
        let (parts, complaints) = parse(&format!("{begin}--x\n{}\nhi\n--x--\n", "a: b\n".repeat(1000)));
        assert_eq!((parts.len(), complaints), (0, vec![MultipartError::Headers { number: 1 }]));
    }

    #[test]
    fn a_bad_part_leaves_the_others() {
        let text = "Content-Type: multipart/mixed; boundary=x\n\n\
            --x\n folded\n\nhi\n--x\nno colon\n\nhi\n--x\nContent-Transfer-Encoding: base64\n\n***\n\
            --x\nContent-Transfer-Encoding: base64\n\n//79\n--x\nContent-Transfer-Encoding: quoted-printable\n\nhi\n\
            --x\n\nhi\n--x--\n";
        let (parts, complaints) = parse(text);
        assert_eq!(complaints.len(), 5, "{complaints:?}");
        assert_eq!(parts, [Part { number: 6, kind: "text/plain".to_owned(), content: "hi".to_owned() }]);
    }
}
