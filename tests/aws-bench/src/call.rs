//! One call of the API: which service, region and action it is for.

use hyper::http::request::Parts;
use serde::Serialize;
use serde_json::Value;

use crate::form::Form;

/// The region of a call that names none.
const DEFAULT_REGION: &str = "us-east-1";

/// A call, as far as the bench understands it.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) service: String,
    pub(crate) region: String,
    pub(crate) action: String,
    /// Of the Query API.
    pub(crate) form: Form,
    /// Of the JSON API.
    pub(crate) json: Value,
}

impl Call {
    pub(crate) fn read(parts: &Parts, body: &[u8]) -> Self {
        let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let (region, service) = header("authorization").and_then(scope).unwrap_or_default();
        let mut call = Self {
            service,
            region: if region.is_empty() { DEFAULT_REGION.to_owned() } else { region },
            action: String::new(),
            form: Form::default(),
            json: Value::Null,
        };
        if let Some(target) = header("x-amz-target") {
            target.rsplit('.').next().unwrap_or_default().clone_into(&mut call.action);
            call.json = serde_json::from_slice(body).unwrap_or_default();
        } else {
            call.form = Form::decode(body);
            if call.form.get("Action").is_none() {
                let query = Form::decode(parts.uri.query().unwrap_or_default().as_bytes());
                if query.get("Action").is_some() {
                    call.form = query;
                }
            }
            call.form.get("Action").unwrap_or_default().clone_into(&mut call.action);
        }
        call
    }

    pub(crate) fn is_spot(&self) -> bool {
        self.form.get("InstanceMarketOptions.MarketType") == Some("spot")
    }

    /// The subnet that instances are to be in.
    pub(crate) fn subnet(&self) -> Option<&str> {
        self.form.get("SubnetId").or_else(|| self.form.get("NetworkInterface.1.SubnetId"))
    }
}

/// `AWS4-HMAC-SHA256 Credential=KEY/DATE/REGION/SERVICE/aws4_request, …`
fn scope(authorization: &str) -> Option<(String, String)> {
    let credential = authorization.split("Credential=").nth(1)?.split([',', ' ']).next()?;
    let parts: Vec<&str> = credential.rsplit('/').collect();
    match parts.as_slice() {
        ["aws4_request", service, region, ..] => Some(((*region).to_owned(), (*service).to_owned())),
        _ => None,
    }
}

/// What is remembered of a call.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Record {
    pub(crate) number: u64,
    /// RFC 3339.
    pub(crate) time: String,
    pub(crate) service: String,
    pub(crate) region: String,
    pub(crate) action: String,
    pub(crate) parameters: Value,
    /// The HTTP status; 0 while there is none.
    pub(crate) status: u16,
    /// The reply was made and not sent.
    pub(crate) lost: bool,
    /// The error's code.
    pub(crate) error: Option<String>,
}

/// Parameters without what is long or secret.
pub(crate) fn parameters(call: &Call) -> Value {
    if !call.json.is_null() {
        return call.json.clone();
    }
    let shown = call.form.0.iter().filter(|(name, _)| !matches!(name.as_str(), "Action" | "Version"));
    Value::Object(
        shown
            .map(|(name, value)| {
                let value =
                    if value.len() > 256 { format!("{} characters", value.len()) } else { value.clone() };
                (name.clone(), Value::String(value))
            })
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn region_and_service_are_in_the_scope_of_the_credential() {
        let header = "AWS4-HMAC-SHA256 Credential=AK/20260101/eu-west-1/ec2/aws4_request, SignedHeaders=host, Signature=0";
        assert_eq!(scope(header), Some(("eu-west-1".to_owned(), "ec2".to_owned())));
        assert_eq!(scope("Bearer x"), None);
    }
}
