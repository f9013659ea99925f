//! The address that this machine has towards the hosts.

use std::{
    net::{IpAddr, UdpSocket},
    time::Duration,
};

use aws_smithy_http_client::{
    Connector,
    tls::{self, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::client::{http::HttpConnector as _, orchestrator::HttpRequest};
use aws_smithy_types::byte_stream::ByteStream;
use machine_driver::{DriverError, Network};

use crate::{config::Config, region::Region, rules, state::Plan};

const ANSWER_AT_MOST: Duration = Duration::from_secs(10);
/// An address is no longer.
const LONGEST_ANSWER: usize = 128;

/// Who may reach what is for the caller, unless it was said otherwise.
pub(crate) async fn networks(
    region: &Region,
    config: &Config,
    plan: &Plan,
) -> Result<Vec<Network>, DriverError> {
    if !config.open_to.is_empty() {
        return Ok(config.open_to.clone());
    }
    let address = if config.is_private() {
        let subnet = plan.places.first().map(|place| place.addresses.as_str()).unwrap_or_default();
        towards(rules::network(subnet)?.address())?
    } else {
        let url = config.checkip_url.clone();
        region.own_addresses.get(url.clone(), Box::pin(public(&url))).await?
    };
    Ok(vec![rules::network(&address.to_string())?])
}

/// Asks the service at `url`, which answers whoever asks with the address that the question came from.
async fn public(url: &str) -> Result<IpAddr, DriverError> {
    let failed = |reason: String| {
        DriverError::failed(format!(
            "Could not find out which address this machine has towards AWS: {reason}"
        ))
        .with_hint("Say who may reach the host with `--aws-open-to`, such as 203.0.113.7 or 203.0.113.0/24")
    };
    let request = HttpRequest::get(url).map_err(|error| failed(format!("`{url}` is no URL ({error})")))?;
    let connector = Connector::builder().tls_provider(tls::Provider::Rustls(CryptoMode::AwsLc)).build();
    let asked = async {
        let response = connector.call(request).await.map_err(|error| error.to_string())?;
        if !response.status().is_success() {
            return Err(format!("`{url}` answers with status {}", response.status().as_u16()));
        }
        let mut stream = ByteStream::new(response.into_body());
        let mut body = Vec::new();
        while let Some(piece) = stream.next().await {
            body.extend_from_slice(&piece.map_err(|error| error.to_string())?);
            if body.len() > LONGEST_ANSWER {
                return Err(format!("`{url}` answers with more than an address"));
            }
        }
        Ok(body)
    };
    let body = tokio::time::timeout(ANSWER_AT_MOST, asked)
        .await
        .map_err(|_| failed(format!("`{url}` does not answer")))?
        .map_err(failed)?;
    let text = String::from_utf8_lossy(&body).trim().to_owned();
    text.parse().map_err(|_| failed(format!("`{url}` answers with `{}`", text.escape_debug())))
}

/// The address from which this machine would reach `there`: what its routes say. Nothing is sent.
fn towards(there: IpAddr) -> Result<IpAddr, DriverError> {
    let any = if there.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let look = || {
        let socket = UdpSocket::bind(any)?;
        socket.connect((there, 9))?;
        socket.local_addr().map(|address| address.ip())
    };
    look().map_err(|error| {
        DriverError::refused(format!("This machine has no route to the subnet of {there}"))
            .with_hint("Say who may reach the host with `--aws-open-to`, or give it a public address")
            .with_source(error)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn this_machine_reaches_itself_from_itself() {
        assert_eq!(towards("127.0.0.9".parse().unwrap()).unwrap(), "127.0.0.1".parse::<IpAddr>().unwrap());
    }
}
