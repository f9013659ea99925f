//! Replies as the API writes them.

use bytes::Bytes;
use hyper::{HeaderMap, StatusCode};
use serde_json::json;
use uuid::Uuid;

use crate::{call::Call, faults::ApiError, moto::Answer, xml::Element};

const NAMESPACE: &str = "http://ec2.amazonaws.com/doc/2016-11-15/";

/// An empty reply to a call of the EC2 API.
pub(crate) fn of(call: &Call) -> Element {
    let mut element = Element::new(&format!("{}Response", call.action));
    element.attributes.push(("xmlns".to_owned(), NAMESPACE.to_owned()));
    element.with(Element::with_text("requestId", Uuid::new_v4().to_string()))
}

pub(crate) fn xml(element: &Element) -> Answer {
    answer(StatusCode::OK, "text/xml;charset=UTF-8", element.document().into())
}

pub(crate) fn json(value: &serde_json::Value) -> Answer {
    answer(StatusCode::OK, "application/x-amz-json-1.1", value.to_string().into())
}

/// An error in the words of the service that was called.
pub(crate) fn error(call: &Call, error: &ApiError) -> Answer {
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::BAD_REQUEST);
    if !call.json.is_null() {
        let body = json!({ "__type": error.code, "message": error.message });
        return answer(status, "application/x-amz-json-1.1", body.to_string().into());
    }
    let id = Uuid::new_v4().to_string();
    let facts = Element::new("Error")
        .with(Element::with_text("Code", &error.code))
        .with(Element::with_text("Message", &error.message));
    let document = if matches!(call.service.as_str(), "" | "ec2") {
        Element::new("Response")
            .with(Element::new("Errors").with(facts))
            .with(Element::with_text("RequestID", id))
    } else {
        Element::new("ErrorResponse").with(facts).with(Element::with_text("RequestId", id))
    };
    answer(status, "text/xml;charset=UTF-8", document.document().into())
}

fn answer(status: StatusCode, kind: &'static str, body: Bytes) -> Answer {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", hyper::header::HeaderValue::from_static(kind));
    Answer { status, headers, body }
}
