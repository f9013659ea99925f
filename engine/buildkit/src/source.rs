//! Where in a Dockerfile an error is, as clients show it with the lines around it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::grpc::Status;
use super::messages::Any;

/// `errdefs.Source` of BuildKit, whose details are JSON.
const TYPE: &str = "github.com/moby/buildkit/errdefs.Source+json";
/// Trailers are no place for more.
const LARGEST: usize = 128 << 10;

/// A Dockerfile, for those errors.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) text: String,
}

impl Source {
    /// Adds to an error where it is. Lines count from 1.
    pub(crate) fn point(&self, mut status: Status, (first, last): (usize, usize)) -> Status {
        if self.text.len() > LARGEST || first == 0 {
            return status;
        }
        let detail = json!({
            "info": { "filename": self.name, "data": STANDARD.encode(&self.text), "language": "Dockerfile" },
            "ranges": [{ "start": { "line": first }, "end": { "line": last.max(first) } }],
        });
        status.details.push(Any { type_url: TYPE.to_owned(), value: detail.to_string().into_bytes() });
        status
    }

    /// Adds it where the message tells the line.
    pub(crate) fn point_by_message(&self, status: Status) -> Status {
        let line = status
            .message
            .strip_prefix("dockerfile parse error on line ")
            .and_then(|rest| rest.split(':').next())
            .and_then(|line| line.parse().ok());
        match line {
            Some(line) => self.point(status, (line, line)),
            None => status,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::Code;

    #[test]
    fn an_error_is_pointed_at() {
        let source = Source { name: "Dockerfile".to_owned(), text: "FROM x\nBANANA\n".to_owned() };
        let status =
            Status::new(Code::Unknown, "dockerfile parse error on line 2: unknown instruction: BANANA");
        let details = source.point_by_message(status).details;
        assert_eq!(details.len(), 1);
        assert!(String::from_utf8_lossy(&details[0].value).contains("\"start\":{\"line\":2}"));
        assert!(source.point_by_message(Status::new(Code::Unknown, "other")).details.is_empty());
    }
}
