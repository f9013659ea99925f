//! AWS on a bad day: throttled, losing replies, slow to know what it made.

use serde_json::json;

use crate::cloud::Cloud;

#[test]
#[ignore = "boots VMs; `cargo xtask test` runs it"]
fn three_hosts_at_once_while_one_reply_in_ten_is_lost() {
    let cloud = Cloud::new();
    cloud
        .aws
        .faults(json!({ "seed": 7, "throttle": 0.2, "lose": 0.1, "not_found": 1500, "stale": 1500 }))
        .unwrap();
    let said = cloud.store.says(&["create", "-d", "aws", "m1", "m2", "m3"]);
    assert_eq!(said.matches("Docker is up and running!").count(), 3, "{said}");
    assert_eq!(cloud.living().len(), 3);
    assert!(said.contains("AWS asks for a slower pace"), "throttling is not said:\n{said}");
    let rows = cloud.machine(&["ls", "-f", "{{.Name}} {{.State}}{{.Error}}"]);
    assert_eq!(rows, "m1 Running\nm2 Running\nm3 Running\n");
    cloud.machine(&["rm", "-y", "m1", "m2", "m3"]);
    cloud.assert_nothing_left();
    cloud.store.assert_nothing_left();
}
