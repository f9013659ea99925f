//! What AWS answers when it does not do what it is asked: the call, AWS' own code and words, and what to do next.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ec2::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};
use machine_driver::{DriverError, ErrorKind};

use crate::{
    api::{Api, Call},
    capacity,
};

/// A call that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{action}: {message}{}", shown(code))]
pub(crate) struct ApiError {
    pub(crate) action: &'static str,
    /// AWS' code, such as `InvalidGroup.NotFound`; empty where no answer came.
    pub(crate) code: String,
    message: String,
    region: String,
    /// There are no credentials to ask with.
    no_credentials: bool,
    /// Something answered, which was not AWS.
    answered: bool,
    /// The HTTP status; 0 where no answer came.
    status: u16,
}

fn shown(code: &str) -> String {
    let code = printable(code);
    if code.is_empty() {
        String::new()
    } else {
        format!(" ({})", code.chars().take(LONGEST_CODE).collect::<String>())
    }
}

/// AWS' longest code has some 60 characters.
const LONGEST_CODE: usize = 80;

/// Codes that say "you may not".
const DENIED: [&str; 4] =
    ["UnauthorizedOperation", "AccessDenied", "AccessDeniedException", "Client.UnauthorizedOperation"];
/// Codes that say "not so fast".
const PACE: [&str; 4] = ["RequestLimitExceeded", "Throttling", "ThrottlingException", "RequestThrottled"];
const TOKEN_TAKEN: &str = "IdempotentParameterMismatch";
/// Codes that say "who are you?".
const STRANGER: [&str; 6] = [
    "AuthFailure",
    "InvalidClientTokenId",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
    "InvalidAccessKeyId",
    "MissingAuthenticationToken",
];
/// Codes that say "your credentials were good once".
const EXPIRED: [&str; 4] =
    ["RequestExpired", "ExpiredToken", "ExpiredTokenException", "Client.RequestExpired"];

impl ApiError {
    pub(crate) fn new<E>(call: Call, api: &Api, error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let code = error.code().unwrap_or_default().to_owned();
        let no_credentials = code.is_empty() && caused_by_credentials(error);
        let message = match (error.message(), no_credentials) {
            (Some(message), _) if !message.trim().is_empty() => printable(message),
            (_, true) => match &api.profile {
                Some(profile) => format!("There are no AWS credentials in the profile `{profile}`"),
                None => "There are no AWS credentials".to_owned(),
            },
            _ => match error.raw_response() {
                // A proxy's page, or an endpoint that is none.
                Some(response) => {
                    format!("The answer is not understood; its status is {}", response.status().as_u16())
                }
                None => printable(&chain(error)),
            },
        };
        let answered = code.is_empty() && error.raw_response().is_some();
        let status = error.raw_response().map_or(0, |response| response.status().as_u16());
        let region = api.region.clone();
        Self { action: call.action(), code, message, region, no_credentials, answered, status }
    }

    pub(crate) fn is(&self, code: &str) -> bool {
        self.code == code
    }

    /// Whether it is one of these, or of the family that they begin.
    pub(crate) fn is_any(&self, codes: &[&str]) -> bool {
        codes.iter().any(|code| self.code == *code)
    }

    /// Whether the thing that was named is not there (or not there yet).
    pub(crate) fn is_not_found(&self) -> bool {
        self.code.ends_with(".NotFound")
            || self.is_any(&["InvalidGroupId.Malformed", "InvalidSpotInstanceRequestID.NotFound"])
    }

    pub(crate) fn is_denied(&self) -> bool {
        self.is_any(&DENIED)
    }

    /// Whether no instance could be had of this kind, here and now.
    pub(crate) fn is_about_capacity(&self) -> bool {
        self.is_any(&capacity::CODES)
    }

    /// Whether nothing came of a call that was sent this often, for certain. After a second time the answer is about
    /// that one only: the first may have been followed, and its reply lost.
    pub(crate) fn is_a_refusal(&self, sent: u32) -> bool {
        if self.no_credentials {
            return true;
        }
        let says_no = self.is_about_capacity() || (400..500).contains(&self.status);
        sent == 1 && says_no && !self.code.is_empty() && !self.is(TOKEN_TAKEN) && !self.is_about_pace()
    }

    /// Whether AWS asks for a slower pace.
    fn is_about_pace(&self) -> bool {
        self.is_any(&PACE)
    }

    /// Whether there is an instance for the client token, which was asked for with other options.
    pub(crate) fn is_token_taken(&self) -> bool {
        self.is(TOKEN_TAKEN)
    }

    /// Whether spot instances cannot be had here and now, while others may.
    pub(crate) fn is_about_spot(&self) -> bool {
        self.is_about_capacity()
            || self.is_any(&[
                "SpotMaxPriceTooLow",
                "MaxSpotInstanceCountExceeded",
                "SpotInstanceCountExceeded",
            ])
    }

    fn is_about_quota(&self) -> bool {
        self.code.ends_with("LimitExceeded") && !self.is("RequestLimitExceeded")
            || self.is_any(&["MaxSpotInstanceCountExceeded", "InstanceLimitExceeded", "VcpuLimitExceeded"])
    }

    /// What the user can do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        if self.no_credentials {
            return Some(
                "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile with `--aws-profile`, or log in with `aws sso login`"
                    .into(),
            );
        }
        if self.is_denied() {
            let permission = self.permission();
            return Some(match permission {
                "iam:PassRole" => "The permission iam:PassRole is missing: the policy that `machine iam-policy aws` prints has it for roles whose names begin with `machine-`".to_owned(),
                "ec2:AuthorizeSecurityGroupIngress" => format!(
                    "The permission {permission} is missing: `machine iam-policy aws` has it for groups that `machine` made; leave groups of your own as they are with `--aws-security-group-readonly`"
                ),
                _ => format!(
                    "The permission {permission} is missing; `machine iam-policy aws` prints the whole policy"
                ),
            });
        }
        if self.is_any(&EXPIRED) {
            return Some(
                "The credentials have expired: log in again (`aws sso login`), or renew them".into(),
            );
        }
        if self.is_any(&STRANGER) {
            return Some("AWS does not know these credentials: check the keys or the profile".into());
        }
        if self.is_about_quota() {
            return Some(format!(
                "A quota of the account in {} is reached: remove something, choose another region, or raise it under Service Quotas",
                self.region
            ));
        }
        if self.is_about_capacity() {
            return Some(
                "Choose another type with `--aws-instance-type`, or another zone with `--aws-zone`".into(),
            );
        }
        if self.is_about_pace() {
            return Some("The account is asking too often: try again in a minute".into());
        }
        if self.answered {
            return Some(format!(
                "Is `{}` a region, and is it AWS that answers? Look at the endpoint and at proxies on the way",
                self.region
            ));
        }
        self.code.is_empty().then(|| {
            format!(
                "Is `{}` a region, is the network up, and is the endpoint right, if one is named?",
                self.region
            )
        })
    }

    pub(crate) fn kind(&self) -> ErrorKind {
        if self.is_denied() {
            ErrorKind::Denied { permission: Some(self.permission().to_owned()) }
        } else if self.is_any(&STRANGER) || self.is_any(&EXPIRED) || self.no_credentials {
            ErrorKind::Denied { permission: None }
        } else if self.is_about_pace() {
            ErrorKind::Throttled { after: None }
        } else if self.is_about_quota() || self.is_about_capacity() {
            ErrorKind::NoCapacity
        } else if self.code.is_empty() {
            ErrorKind::Unknown
        } else {
            ErrorKind::Failed
        }
    }

    /// The permission that is missing: one call may need several, and AWS says which of them it is.
    fn permission(&self) -> &str {
        let named = self.message.split("authorized to perform: ").nth(1);
        let named = named.and_then(|rest| rest.split([' ', ',']).next()).filter(|word| word.contains(':'));
        named.unwrap_or(self.action)
    }

    /// As the driver's error: `attempt` is what was tried, on what.
    pub(crate) fn during(self, attempt: impl Into<String>) -> DriverError {
        let kind = self.kind();
        let error = DriverError::new(kind, attempt);
        match self.hint() {
            Some(hint) => error.with_hint(hint).with_source(self),
            None => error.with_source(self),
        }
    }
}

fn caused_by_credentials(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<CredentialsError>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// All causes, one after another, without those that only say that something failed.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = error.source().or(Some(error));
    while let Some(error) = next {
        let text = error.to_string();
        if !texts.iter().any(|said| said.contains(&text)) {
            texts.push(text);
        }
        next = error.source();
    }
    texts.join(": ")
}

/// AWS' words fit a terminal: no control characters, not without end, and without the encoded details that only
/// another call could read.
pub(crate) fn printable(text: &str) -> String {
    let text = text.split("Encoded authorization failure message").next().unwrap_or_default();
    let clean: String =
        text.chars().map(|c| if c.is_control() || is_invisible(c) { ' ' } else { c }).collect();
    let mut short: String = clean.trim().chars().take(400).collect();
    while short.ends_with('.') {
        short.pop();
    }
    short
}

/// Characters that change how others are shown, and show nothing themselves.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Calls that answer with an error of ours.
pub(crate) trait Answer<T> {
    fn answer(self, call: Call, api: &Api) -> Result<T, ApiError>;
}

impl<T, E> Answer<T> for Result<T, SdkError<E, HttpResponse>>
where
    E: ProvideErrorMetadata + Error + 'static,
{
    fn answer(self, call: Call, api: &Api) -> Result<T, ApiError> {
        self.map_err(|error| ApiError::new(call, api, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: &str) -> ApiError {
        ApiError {
            action: "ec2:RunInstances",
            code: code.into(),
            message: "no".into(),
            region: "eu-west-1".into(),
            no_credentials: false,
            answered: false,
            status: if code.is_empty() { 0 } else { 400 },
        }
    }

    #[test]
    fn a_denied_call_names_the_permission() {
        let told = error("UnauthorizedOperation").during("Could not start an instance");
        let permission = Some("ec2:RunInstances".to_owned());
        assert_eq!(told.kind(), &ErrorKind::Denied { permission });
        assert!(told.hint().is_some_and(|hint| hint.contains("ec2:RunInstances")));
    }

    #[test]
    fn quota_throttling_and_capacity_are_told_apart() {
        assert!(error("VcpuLimitExceeded").is_about_quota());
        assert!(error("SecurityGroupLimitExceeded").is_about_quota());
        assert!(!error("RequestLimitExceeded").is_about_quota());
        assert!(error("InsufficientInstanceCapacity").is_about_spot());
        assert!(!error("SpotMaxPriceTooLow").is_about_capacity());
    }

    /// Of a call that was sent twice, nobody knows what came of the first time.
    #[test]
    fn only_a_clear_answer_to_the_only_try_is_a_refusal() {
        for code in ["ExpiredToken", "AuthFailure", "UnauthorizedOperation", "VcpuLimitExceeded"] {
            assert!(error(code).is_a_refusal(1), "{code}");
            assert!(!error(code).is_a_refusal(2), "{code}");
        }
        assert!(error("InsufficientInstanceCapacity").is_a_refusal(1));
        for code in ["", "RequestLimitExceeded", "Throttling", "IdempotentParameterMismatch"] {
            assert!(!error(code).is_a_refusal(1), "{code:?}");
        }
        for status in [0, 500, 502, 503] {
            assert!(!ApiError { status, ..error("InternalError") }.is_a_refusal(1), "{status}");
        }
        let capacity = ApiError { status: 500, ..error("InsufficientInstanceCapacity") };
        assert!(capacity.is_a_refusal(1) && !capacity.is_a_refusal(2));
    }

    #[test]
    fn what_failed_is_told_by_its_kind() {
        let kind = |code: &str| error(code).during("x").kind().clone();
        assert_eq!(kind("RequestLimitExceeded"), ErrorKind::Throttled { after: None });
        assert_eq!(kind("InsufficientInstanceCapacity"), ErrorKind::NoCapacity);
        assert_eq!(kind("VcpuLimitExceeded"), ErrorKind::NoCapacity);
        assert_eq!(kind("ExpiredToken"), ErrorKind::Denied { permission: None });
        assert_eq!(kind(""), ErrorKind::Unknown);
        assert_eq!(kind("InvalidParameterValue"), ErrorKind::Failed);
    }

    #[test]
    fn the_permission_that_aws_names_is_the_one_that_is_missing() {
        let mut error = error("UnauthorizedOperation");
        error.message = "User x is not authorized to perform: ec2:CreateTags on resource y".into();
        assert!(error.during("x").hint().is_some_and(|hint| hint.contains("ec2:CreateTags")));
    }

    #[test]
    fn encoded_details_and_control_characters_are_left_out() {
        let text = "You are not authorized.\u{1b}[2J Encoded authorization failure message: AAAA";
        assert_eq!(printable(text), "You are not authorized. [2J");
    }
}
