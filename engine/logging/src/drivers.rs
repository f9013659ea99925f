//! Which driver has which name.

use crate::driver::{Driver, DriverError, Settings};
use crate::{awslogs, file, fluentd, gelf, journald, syslog};

/// Begins the driver, so that a wrong address is known before the container starts.
pub(crate) async fn begin(settings: Settings) -> Result<Box<dyn Driver>, DriverError> {
    let (options, container) = (&settings.options, settings.container);
    Ok(match settings.driver.as_str() {
        "syslog" => Box::new(syslog::Syslog::begin(options, container).await?),
        "journald" => Box::new(journald::Journald::begin(&container)?),
        "fluentd" => Box::new(fluentd::Fluentd::begin(options, container).await?),
        "gelf" => Box::new(gelf::Gelf::begin(options, &container).await?),
        "awslogs" => Box::new(awslogs::AwsLogs::begin(options, &container).await?),
        "json-file" | "local" => {
            let config = settings.file.ok_or_else(|| DriverError::new("there is no file for the log"))?;
            Box::new(file::LogFileDriver::open(config)?)
        }
        other => return Err(DriverError::new(format!("no log driver named '{other}' is registered"))),
    })
}
