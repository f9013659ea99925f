//! What a control group of the second version says of its use. Each file is optional: kernels are built without some, and
//! controllers are turned off.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use libcgroups::stats::{BlkioDeviceStat, Stats};

/// Reads a group's folder. Times are in nanoseconds, as everywhere; the kernel has them in microseconds.
pub(super) fn read(folder: &Path) -> io::Result<Stats> {
    fs::metadata(folder)?;
    let text = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
    let mut stats = Stats::default();

    let times = flat(&text("cpu.stat"));
    let count = |name: &str| times.get(name).copied().unwrap_or_default();
    let time = |name: &str| count(name).saturating_mul(1000);
    let usage = &mut stats.cpu.usage;
    usage.usage_total = time("usage_usec");
    usage.usage_user = time("user_usec");
    usage.usage_kernel = time("system_usec");
    let throttling = &mut stats.cpu.throttling;
    throttling.periods = count("nr_periods");
    throttling.throttled_periods = count("nr_throttled");
    throttling.throttled_time = time("throttled_usec");

    let number = |name: &str| text(name).trim().parse::<u64>();
    let memory = &mut stats.memory;
    memory.memory.usage = number("memory.current").unwrap_or_default();
    memory.memory.max_usage = number("memory.peak").unwrap_or_default();
    // `max` is no number.
    memory.memory.limit = number("memory.max").unwrap_or(u64::MAX);
    memory.memory.fail_count = flat(&text("memory.events")).get("max").copied().unwrap_or_default();
    memory.stats = flat(&text("memory.stat"));

    let blkio = &mut stats.blkio;
    for line in text("io.stat").lines() {
        let mut words = line.split_ascii_whitespace();
        let Some((major, minor)) = words.next().and_then(|device| device.split_once(':')) else { continue };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            let (list, op) = match name {
                "rbytes" => (&mut blkio.service_bytes, "read"),
                "wbytes" => (&mut blkio.service_bytes, "write"),
                "rios" => (&mut blkio.serviced, "read"),
                "wios" => (&mut blkio.serviced, "write"),
                _ => continue,
            };
            let value = value.parse().unwrap_or_default();
            list.push(BlkioDeviceStat { major, minor, op_type: Some(op.to_owned()), value });
        }
    }
    Ok(stats)
}

/// `name number` in each line.
fn flat(text: &str) -> HashMap<String, u64> {
    let entries = text.lines().filter_map(|line| line.split_once(' '));
    entries.filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?))).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_there_is_read_and_what_is_not_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        let empty = read(folder.path()).unwrap();
        assert_eq!((empty.cpu.usage.usage_total, empty.memory.memory.limit), (0, u64::MAX));
        let times =
            "usage_usec 7\nuser_usec 5\nsystem_usec 2\nnr_periods 3\nnr_throttled 1\nthrottled_usec 9\n";
        write("cpu.stat", times);
        write("memory.current", "4096\n");
        write("memory.max", "max\n");
        write("memory.stat", "anon 1024\nfile 2048\ninactive_file 512\n");
        write("io.stat", "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\nodd\n");
        let stats = read(folder.path()).unwrap();
        let (usage, throttling) = (&stats.cpu.usage, &stats.cpu.throttling);
        assert_eq!((usage.usage_total, usage.usage_user, usage.usage_kernel), (7000, 5000, 2000));
        let throttled = (throttling.periods, throttling.throttled_periods, throttling.throttled_time);
        assert_eq!(throttled, (3, 1, 9000));
        assert_eq!((stats.memory.memory.usage, stats.memory.memory.limit), (4096, u64::MAX));
        assert_eq!(stats.memory.stats["inactive_file"], 512);
        let transfers = |list: &[BlkioDeviceStat]| -> Vec<(u64, u64, String, u64)> {
            list.iter().map(|one| (one.major, one.minor, one.op_type.clone().unwrap(), one.value)).collect()
        };
        let of = |op: &str, value| (8, 0, op.to_owned(), value);
        assert_eq!(transfers(&stats.blkio.service_bytes), [of("read", 10), of("write", 20)]);
        assert_eq!(transfers(&stats.blkio.serviced), [of("read", 1), of("write", 2)]);
        write("memory.max", "8192\n");
        assert_eq!(read(folder.path()).unwrap().memory.memory.limit, 8192);
        assert!(read(&folder.path().join("gone")).is_err());
    }
}
