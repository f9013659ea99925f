//! `ls --filter`: which hosts are shown.

use crate::{
    store::{Record, StoreError},
    ui::Failure,
};

/// `--filter`: the same key again widens, different keys narrow.
#[derive(Debug, Default)]
pub(super) struct Filters {
    names: Vec<regex_lite::Regex>,
    drivers: Vec<String>,
    states: Vec<String>,
    swarms: Vec<String>,
    labels: Vec<String>,
}

impl Filters {
    pub(super) fn parse(texts: &[String]) -> Result<Self, Failure> {
        let mut filters = Self::default();
        for text in texts {
            let Some((key, value)) = text.split_once('=') else {
                return Err(Failure::text("Unsupported filter syntax"));
            };
            let value_text = value.to_owned();
            match key.to_lowercase().as_str() {
                "name" => {
                    filters.names.push(
                        regex_lite::Regex::new(value)
                            .map_err(|error| Failure::because("Could not use the filter `name`", &error))?,
                    );
                }
                "driver" => filters.drivers.push(value_text),
                "state" => filters.states.push(value_text),
                "swarm" => filters.swarms.push(value_text),
                "label" => filters.labels.push(value_text),
                _ => return Err(Failure::text(format!("Unsupported filter key '{key}'"))),
            }
        }
        Ok(filters)
    }

    pub(super) fn needs_state(&self) -> bool {
        !self.states.is_empty()
    }

    /// Broken hosts are hidden by any filter that they cannot be shown to match.
    pub(super) fn keeps_record(&self, record: Result<&Record, &StoreError>) -> bool {
        let Ok(record) = record else {
            return self.names.is_empty()
                && self.drivers.is_empty()
                && self.swarms.is_empty()
                && self.labels.is_empty();
        };
        let any = |wanted: &[String], found: &str| {
            wanted.is_empty() || wanted.iter().any(|text| text.eq_ignore_ascii_case(found))
        };
        let labels = &record.host_options.engine_options.labels;
        let swarm = if record.host_options.swarm_options.master { record.name.as_str() } else { "" };
        (self.names.is_empty() || self.names.iter().any(|regex| regex.is_match(record.name.as_str())))
            && any(&self.drivers, &record.driver_name)
            && any(&self.swarms, swarm)
            && (self.labels.is_empty()
                || self.labels.iter().any(|text| labels.iter().any(|label| label.eq_ignore_ascii_case(text))))
    }

    pub(super) fn keeps_state(&self, state: &str) -> bool {
        self.states.is_empty() || self.states.iter().any(|wanted| wanted.eq_ignore_ascii_case(state))
    }
}
