//! No capacity is an answer: EC2 gives it with status 500, after which the SDK would ask on for a minute.

use std::{fmt, marker::PhantomData};

use aws_sdk_ec2::{
    config::{
        interceptors::InterceptorContext,
        retry::{ClassifyRetry, RetryAction},
    },
    error::ProvideErrorMetadata,
};

/// Codes that say that there is no room here and now. Another zone or another type is the way on.
/// <https://docs.aws.amazon.com/ec2/latest/devguide/errors-overview.html>
pub(crate) const CODES: [&str; 5] = [
    "InsufficientInstanceCapacity",
    "InsufficientHostCapacity",
    "InsufficientReservedInstanceCapacity",
    "InsufficientCapacity",
    "Unsupported",
];

/// Keeps a call whose errors are `E` from being repeated when there is no capacity.
pub(crate) struct NoRetry<E>(PhantomData<fn() -> E>);

impl<E> NoRetry<E> {
    pub(crate) fn new() -> Self {
        Self(PhantomData)
    }
}

impl<E> fmt::Debug for NoRetry<E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("NoRetry")
    }
}

impl<E> ClassifyRetry for NoRetry<E>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let code = match context.output_or_error() {
            Some(Err(error)) => error
                .as_operation_error()
                .and_then(|error| error.downcast_ref::<E>())
                .and_then(ProvideErrorMetadata::code),
            _ => None,
        };
        if code.is_some_and(|code| CODES.contains(&code)) {
            RetryAction::RetryForbidden
        } else {
            RetryAction::NoActionIndicated
        }
    }

    fn name(&self) -> &'static str {
        "machine-capacity"
    }
}
