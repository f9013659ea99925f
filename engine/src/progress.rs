//! Progress of transfers as lines of JSON, in the words and shapes that docker's clients know.

use engine_model::transfer::{LayerStep, TransferEvent};
use serde_json::{Value, json};

/// The line that ends a stream which failed.
pub fn error_line(message: &str) -> Value {
    json!({"errorDetail": {"message": message}, "error": message})
}

/// One thing that a transfer tells, as docker's lines.
pub fn lines(event: &TransferEvent) -> Vec<Value> {
    let status = |text: String| vec![json!({ "status": text })];
    match event {
        TransferEvent::From { path, reference } => {
            vec![json!({"status": format!("Pulling from {path}"), "id": reference})]
        }
        TransferEvent::To { repository } => status(format!("The push refers to repository [{repository}]")),
        TransferEvent::Pulled { digest } => status(format!("Digest: {digest}")),
        TransferEvent::Status { text } => status(format!("Status: {text}")),
        TransferEvent::Pushed { tag, digest, size } => vec![
            json!({"status": format!("{tag}: digest: {digest} size: {size}")}),
            json!({"progressDetail": {}, "aux": {"Tag": tag, "Digest": digest, "Size": size}}),
        ],
        TransferEvent::Layer { id, step } => vec![layer(id, *step)],
    }
}

fn layer(id: &str, step: LayerStep) -> Value {
    let counted = |status: &str, current: u64, total: u64| {
        json!({
            "status": status,
            "progressDetail": {"current": current, "total": total},
            "progress": bar(current, total),
            "id": id,
        })
    };
    let plain = |status: &str| json!({"status": status, "progressDetail": {}, "id": id});
    match step {
        LayerStep::Planned => plain("Pulling fs layer"),
        LayerStep::Preparing => plain("Preparing"),
        LayerStep::Waiting => plain("Waiting"),
        LayerStep::Exists => plain("Already exists"),
        LayerStep::ExistsThere => plain("Layer already exists"),
        LayerStep::Mounted => plain("Mounted from another repository"),
        LayerStep::Downloading { current, total } => counted("Downloading", current, total),
        LayerStep::Retrying { seconds: 1 } => plain("Retrying in 1 second"),
        LayerStep::Retrying { seconds } => plain(&format!("Retrying in {seconds} seconds")),
        LayerStep::Verifying => plain("Verifying Checksum"),
        LayerStep::Downloaded => plain("Download complete"),
        LayerStep::Extracting { current, total } => counted("Extracting", current, total),
        LayerStep::Pulled => plain("Pull complete"),
        LayerStep::Pushing { current, total } => counted("Pushing", current, total),
        LayerStep::Pushed => plain("Pushed"),
    }
}

/// `[=====>       ]  1.2MB/3.4MB`, for clients that do not draw it themselves.
fn bar(current: u64, total: u64) -> String {
    const WIDTH: u64 = 50;
    let done = usize::try_from(current.min(total) * WIDTH / total.max(1)).unwrap_or(0);
    let bar = format!("{}>", "=".repeat(done));
    format!("[{bar:<51}]  {:>7}/{}", human(current), human(total))
}

/// Four digits that count, in steps of a thousand, as docker's `HumanSize` has it.
fn human(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    #[expect(clippy::cast_precision_loss, reason = "it is shown with four digits")]
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = match value {
        value if value >= 1000.0 || unit == 0 => 0,
        value if value >= 100.0 => 1,
        value if value >= 10.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_bars_are_dockers() {
        for (bytes, text) in
            [(0, "0B"), (999, "999B"), (1000, "1kB"), (1_234_567, "1.235MB"), (52_428_800, "52.43MB")]
        {
            assert_eq!(human(bytes), text);
        }
        assert_eq!(bar(0, 10), format!("[>{}]       0B/10B", " ".repeat(50)));
        assert_eq!(bar(10, 10), format!("[{}>]      10B/10B", "=".repeat(50)));
        assert!(bar(7, 0).starts_with("[>"));
    }

    #[test]
    fn a_push_tells_its_digest_twice() {
        let event = TransferEvent::Pushed { tag: "1".into(), digest: "sha256:ab".into(), size: 5 };
        let lines = lines(&event);
        assert_eq!(lines[0]["status"], "1: digest: sha256:ab size: 5");
        assert_eq!(lines[1]["aux"]["Digest"], "sha256:ab");
    }
}
