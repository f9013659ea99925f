//! What becomes of each field of the published API description.

/// What becomes of a field.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    /// This request, which says something in the field, is refused by the field's name.
    Refused(&'static str),
    /// The test of this name sees what the field does: in the process, its cgroup, its mounts or its network.
    Effect(&'static str),
    /// Some values have an effect, which the test of this name sees; this request has another one and is refused.
    Partly(&'static str, &'static str),
    /// Nobody acts on it in dockerd, either, and this is why.
    Told(&'static str),
}

use Fate::{Effect, Partly, Refused, Told};

const CLIENT: &str = "the client acts on it, and inspect tells it";
const BUILD: &str = "only who builds an image reads it";
const REPEATED: &str = "an answer; whoever makes a container like another repeats it";
const CONSISTENT: &str = "every mount is as consistent as can be asked for; other words are refused";

/// Fields of older descriptions, which older clients send.
pub(crate) const OLDER: [&str; 3] = ["MacAddress", "HostConfig.KernelMemory", "HostConfig.KernelMemoryTCP"];

/// `POST /containers/create`. A field that is refused is so with everything in it.
pub(crate) const CREATE: &[(&str, Fate)] = &[
    ("ArgsEscaped", Refused(r#"{"ArgsEscaped":true}"#)),
    ("AttachStderr", Told(CLIENT)),
    ("AttachStdin", Told(CLIENT)),
    ("AttachStdout", Told(CLIENT)),
    ("Cmd", Effect("the_process_is_as_asked")),
    ("Domainname", Effect("the_host_is_called_as_asked")),
    ("Entrypoint", Effect("the_process_is_as_asked")),
    ("Env", Effect("the_process_is_as_asked")),
    ("ExposedPorts", Effect("the_network_is_as_asked")),
    ("Healthcheck.Interval", Effect("health_is_what_the_checks_say")),
    ("Healthcheck.Retries", Effect("health_is_what_the_checks_say")),
    ("Healthcheck.StartInterval", Effect("health_is_what_the_checks_say")),
    ("Healthcheck.StartPeriod", Effect("health_is_what_the_checks_say")),
    ("Healthcheck.Test", Effect("health_is_what_the_checks_say")),
    ("Healthcheck.Timeout", Effect("a_check_that_takes_too_long_is_killed")),
    ("Hostname", Effect("the_process_is_as_asked")),
    ("Image", Effect("the_process_is_as_asked")),
    ("Labels", Effect("lists_are_filtered")),
    ("MacAddress", Effect("the_network_is_as_asked")),
    ("NetworkDisabled", Effect("the_network_is_as_asked")),
    ("OnBuild", Told(BUILD)),
    ("OpenStdin", Effect("a_terminal_has_a_size_and_an_end")),
    ("Shell", Told(BUILD)),
    ("StdinOnce", Effect("attach_frames_streams_and_closes_halves")),
    ("StopSignal", Effect("a_stop_is_as_asked")),
    ("StopTimeout", Effect("a_stop_is_as_asked")),
    ("Tty", Effect("a_terminal_has_a_size_and_an_end")),
    ("User", Effect("the_process_is_as_asked")),
    ("Volumes", Effect("volumes_keep_data_and_begin_with_the_image")),
    ("WorkingDir", Effect("the_process_is_as_asked")),
    ("HostConfig.Annotations", Effect("annotations_reach_the_runtime")),
    ("HostConfig.AutoRemove", Effect("run_passes_output_input_and_exit_code_on")),
    (
        "HostConfig.Binds",
        Partly(
            "volumes_keep_data_and_begin_with_the_image",
            r#"{"HostConfig":{"Binds":["/tmp:/x:rshared"]}}"#,
        ),
    ),
    ("HostConfig.BlkioDeviceReadBps.Path", Effect("block_devices_are_throttled")),
    ("HostConfig.BlkioDeviceReadBps.Rate", Effect("block_devices_are_throttled")),
    ("HostConfig.BlkioDeviceReadIOps.Path", Effect("block_devices_are_throttled")),
    ("HostConfig.BlkioDeviceReadIOps.Rate", Effect("block_devices_are_throttled")),
    ("HostConfig.BlkioDeviceWriteBps.Path", Effect("block_devices_are_throttled")),
    ("HostConfig.BlkioDeviceWriteBps.Rate", Effect("block_devices_are_throttled")),
    ("HostConfig.BlkioDeviceWriteIOps.Path", Effect("block_devices_are_throttled")),
    ("HostConfig.BlkioDeviceWriteIOps.Rate", Effect("block_devices_are_throttled")),
    ("HostConfig.BlkioWeight", Effect("block_devices_are_shared_by_weight")),
    ("HostConfig.BlkioWeightDevice.Path", Effect("block_devices_are_shared_by_weight")),
    ("HostConfig.BlkioWeightDevice.Weight", Effect("block_devices_are_shared_by_weight")),
    ("HostConfig.CapAdd", Effect("the_kernel_is_shown_as_asked")),
    ("HostConfig.CapDrop", Effect("a_container_is_confined")),
    ("HostConfig.Cgroup", Refused(r#"{"HostConfig":{"Cgroup":"container:other"}}"#)),
    ("HostConfig.CgroupParent", Effect("limits_are_in_the_cgroup")),
    (
        "HostConfig.CgroupnsMode",
        Partly("namespaces_are_shared_as_asked", r#"{"HostConfig":{"CgroupnsMode":"shared"}}"#),
    ),
    ("HostConfig.ConsoleSize", Effect("a_terminal_has_a_size_and_an_end")),
    ("HostConfig.ContainerIDFile", Told(CLIENT)),
    ("HostConfig.CpuCount", Refused(r#"{"HostConfig":{"CpuCount":1}}"#)),
    ("HostConfig.CpuPercent", Refused(r#"{"HostConfig":{"CpuPercent":1}}"#)),
    ("HostConfig.CpuPeriod", Effect("limits_are_in_the_cgroup")),
    ("HostConfig.CpuQuota", Effect("limits_are_in_the_cgroup")),
    ("HostConfig.CpuRealtimePeriod", Refused(r#"{"HostConfig":{"CpuRealtimePeriod":1}}"#)),
    ("HostConfig.CpuRealtimeRuntime", Refused(r#"{"HostConfig":{"CpuRealtimeRuntime":1}}"#)),
    ("HostConfig.CpuShares", Effect("limits_are_in_the_cgroup")),
    ("HostConfig.CpusetCpus", Effect("limits_are_in_the_cgroup")),
    ("HostConfig.CpusetMems", Effect("limits_are_in_the_cgroup")),
    ("HostConfig.DeviceCgroupRules", Effect("devices_are_there_as_asked")),
    (
        "HostConfig.DeviceRequests",
        Refused(r#"{"HostConfig":{"DeviceRequests":[{"Count":-1,"Capabilities":[["gpu"]]}]}}"#),
    ),
    ("HostConfig.Devices.CgroupPermissions", Effect("devices_are_there_as_asked")),
    ("HostConfig.Devices.PathInContainer", Effect("devices_are_there_as_asked")),
    ("HostConfig.Devices.PathOnHost", Effect("devices_are_there_as_asked")),
    ("HostConfig.Dns", Effect("networks_modes_and_names")),
    ("HostConfig.DnsOptions", Effect("the_network_is_as_asked")),
    ("HostConfig.DnsSearch", Effect("networks_modes_and_names")),
    ("HostConfig.ExtraHosts", Effect("networks_modes_and_names")),
    ("HostConfig.GroupAdd", Effect("the_process_is_as_asked")),
    ("HostConfig.IOMaximumBandwidth", Refused(r#"{"HostConfig":{"IOMaximumBandwidth":1}}"#)),
    ("HostConfig.IOMaximumIOps", Refused(r#"{"HostConfig":{"IOMaximumIOps":1}}"#)),
    ("HostConfig.Init", Effect("the_process_is_as_asked")),
    (
        "HostConfig.IpcMode",
        Partly("namespaces_are_shared_as_asked", r#"{"HostConfig":{"IpcMode":"sometimes"}}"#),
    ),
    ("HostConfig.Isolation", Refused(r#"{"HostConfig":{"Isolation":"hyperv"}}"#)),
    ("HostConfig.KernelMemory", Refused(r#"{"HostConfig":{"KernelMemory":8000000}}"#)),
    ("HostConfig.KernelMemoryTCP", Refused(r#"{"HostConfig":{"KernelMemoryTCP":8000000}}"#)),
    (
        "HostConfig.Links",
        Partly(
            "links_of_the_default_bridge_are_lines_and_variables",
            r#"{"HostConfig":{"NetworkMode":"none","Links":["a:b"]}}"#,
        ),
    ),
    (
        "HostConfig.LogConfig.Config",
        Partly(
            "lines_of_the_log_have_attributes",
            r#"{"HostConfig":{"LogConfig":{"Type":"json-file","Config":{"colour":"red"}}}}"#,
        ),
    ),
    (
        "HostConfig.LogConfig.Type",
        Partly("syslog_in_each_form_and_over_each_way", r#"{"HostConfig":{"LogConfig":{"Type":"splunk"}}}"#),
    ),
    ("HostConfig.MaskedPaths", Effect("the_kernel_is_shown_as_asked")),
    ("HostConfig.Memory", Effect("limits_hold")),
    ("HostConfig.MemoryReservation", Effect("limits_are_in_the_cgroup")),
    ("HostConfig.MemorySwap", Effect("limits_are_in_the_cgroup")),
    ("HostConfig.MemorySwappiness", Effect("limits_are_in_the_cgroup")),
    ("HostConfig.Mounts.BindOptions.CreateMountpoint", Effect("mounts_are_as_asked")),
    ("HostConfig.Mounts.BindOptions.NonRecursive", Effect("mounts_are_as_asked")),
    (
        "HostConfig.Mounts.BindOptions.Propagation",
        Partly(
            "mounts_are_as_asked",
            r#"{"HostConfig":{"Mounts":[{"Type":"bind","Source":"/tmp","Target":"/x","BindOptions":{"Propagation":"rshared"}}]}}"#,
        ),
    ),
    (
        "HostConfig.Mounts.BindOptions.ReadOnlyForceRecursive",
        Partly(
            "mounts_are_as_asked",
            r#"{"HostConfig":{"Mounts":[{"Type":"bind","Source":"/tmp","Target":"/x","BindOptions":{"ReadOnlyForceRecursive":true}}]}}"#,
        ),
    ),
    (
        "HostConfig.Mounts.BindOptions.ReadOnlyNonRecursive",
        Partly(
            "mounts_are_as_asked",
            r#"{"HostConfig":{"Mounts":[{"Type":"bind","Source":"/tmp","Target":"/x","BindOptions":{"ReadOnlyNonRecursive":true}}]}}"#,
        ),
    ),
    ("HostConfig.Mounts.Consistency", Told(CONSISTENT)),
    ("HostConfig.Mounts.ImageOptions.Subpath", Effect("an_image_is_mounted_for_reading")),
    ("HostConfig.Mounts.ReadOnly", Effect("mounts_are_as_asked")),
    ("HostConfig.Mounts.Source", Effect("mounts_are_as_asked")),
    ("HostConfig.Mounts.Target", Effect("mounts_are_as_asked")),
    ("HostConfig.Mounts.TmpfsOptions.Mode", Effect("mounts_are_as_asked")),
    ("HostConfig.Mounts.TmpfsOptions.Options", Effect("mounts_are_as_asked")),
    ("HostConfig.Mounts.TmpfsOptions.SizeBytes", Effect("mounts_are_as_asked")),
    (
        "HostConfig.Mounts.Type",
        Partly(
            "mounts_are_as_asked",
            r#"{"HostConfig":{"Mounts":[{"Type":"cluster","Source":"s","Target":"/x"}]}}"#,
        ),
    ),
    (
        "HostConfig.Mounts.VolumeOptions.DriverConfig.Name",
        Refused(
            r#"{"HostConfig":{"Mounts":[{"Type":"volume","Target":"/x","VolumeOptions":{"DriverConfig":{"Name":"nfs"}}}]}}"#,
        ),
    ),
    (
        "HostConfig.Mounts.VolumeOptions.DriverConfig.Options",
        Effect("a_volume_is_made_of_what_its_options_say"),
    ),
    ("HostConfig.Mounts.VolumeOptions.Labels", Effect("mounts_are_as_asked")),
    ("HostConfig.Mounts.VolumeOptions.NoCopy", Effect("mounts_are_as_asked")),
    ("HostConfig.Mounts.VolumeOptions.Subpath", Effect("a_part_of_a_volume_is_mounted_and_nothing_else")),
    ("HostConfig.NanoCpus", Effect("limits_hold")),
    ("HostConfig.NetworkMode", Effect("networks_modes_and_names")),
    ("HostConfig.OomKillDisable", Refused(r#"{"HostConfig":{"OomKillDisable":true}}"#)),
    ("HostConfig.OomScoreAdj", Effect("the_process_is_as_asked")),
    ("HostConfig.PidMode", Partly("namespaces_are_shared_as_asked", r#"{"HostConfig":{"PidMode":"other"}}"#)),
    ("HostConfig.PidsLimit", Effect("limits_hold")),
    (
        "HostConfig.PortBindings.*.HostIp",
        Effect("a_published_port_is_reached_from_inside_and_outside_and_is_taken"),
    ),
    (
        "HostConfig.PortBindings.*.HostPort",
        Effect("a_published_port_is_reached_from_inside_and_outside_and_is_taken"),
    ),
    ("HostConfig.Privileged", Effect("a_container_is_confined")),
    ("HostConfig.PublishAllPorts", Effect("the_network_is_as_asked")),
    ("HostConfig.ReadonlyPaths", Effect("the_kernel_is_shown_as_asked")),
    ("HostConfig.ReadonlyRootfs", Effect("a_container_is_confined")),
    ("HostConfig.RestartPolicy.MaximumRetryCount", Effect("restart_policies_are_kept")),
    ("HostConfig.RestartPolicy.Name", Effect("restart_policies_are_kept")),
    ("HostConfig.Runtime", Refused(r#"{"HostConfig":{"Runtime":"kata"}}"#)),
    (
        "HostConfig.SecurityOpt",
        Partly("the_kernel_is_shown_as_asked", r#"{"HostConfig":{"SecurityOpt":["apparmor=mine"]}}"#),
    ),
    ("HostConfig.ShmSize", Effect("mounts_are_as_asked")),
    (
        "HostConfig.StorageOpt",
        Partly(
            "a_container_has_as_much_room_as_it_is_given",
            r#"{"HostConfig":{"StorageOpt":{"colour":"red"}}}"#,
        ),
    ),
    ("HostConfig.Sysctls", Effect("the_kernel_is_shown_as_asked")),
    ("HostConfig.Tmpfs", Effect("volumes_keep_data_and_begin_with_the_image")),
    (
        "HostConfig.UTSMode",
        Partly("namespaces_are_shared_as_asked", r#"{"HostConfig":{"UTSMode":"container:a"}}"#),
    ),
    ("HostConfig.Ulimits.Hard", Effect("the_process_is_as_asked")),
    ("HostConfig.Ulimits.Name", Effect("the_process_is_as_asked")),
    ("HostConfig.Ulimits.Soft", Effect("the_process_is_as_asked")),
    (
        "HostConfig.UsernsMode",
        Partly(
            "what_takes_the_hosts_users_is_refused_without_them",
            r#"{"HostConfig":{"UsernsMode":"private"}}"#,
        ),
    ),
    ("HostConfig.VolumeDriver", Refused(r#"{"HostConfig":{"VolumeDriver":"nfs"}}"#)),
    ("HostConfig.VolumesFrom", Effect("mounts_are_as_asked")),
    ("NetworkingConfig.EndpointsConfig.*.Aliases", Effect("containers_of_a_network_find_each_other_by_name")),
    ("NetworkingConfig.EndpointsConfig.*.DNSNames", Told(REPEATED)),
    (
        "NetworkingConfig.EndpointsConfig.*.DriverOpts",
        Partly(
            "an_endpoint_has_its_options",
            r#"{"NetworkingConfig":{"EndpointsConfig":{"bridge":{"DriverOpts":{"a":"b"}}}}}"#,
        ),
    ),
    ("NetworkingConfig.EndpointsConfig.*.EndpointID", Told(REPEATED)),
    ("NetworkingConfig.EndpointsConfig.*.Gateway", Told(REPEATED)),
    ("NetworkingConfig.EndpointsConfig.*.GlobalIPv6Address", Told(REPEATED)),
    ("NetworkingConfig.EndpointsConfig.*.GlobalIPv6PrefixLen", Told(REPEATED)),
    (
        "NetworkingConfig.EndpointsConfig.*.GwPriority",
        Effect("the_way_out_is_the_network_of_the_highest_priority"),
    ),
    (
        "NetworkingConfig.EndpointsConfig.*.IPAMConfig.IPv4Address",
        Effect("containers_of_a_network_find_each_other_by_name"),
    ),
    ("NetworkingConfig.EndpointsConfig.*.IPAMConfig.IPv6Address", Effect("a_network_has_ipv6")),
    ("NetworkingConfig.EndpointsConfig.*.IPAMConfig.LinkLocalIPs", Effect("an_endpoint_has_its_options")),
    ("NetworkingConfig.EndpointsConfig.*.IPAddress", Told(REPEATED)),
    ("NetworkingConfig.EndpointsConfig.*.IPPrefixLen", Told(REPEATED)),
    ("NetworkingConfig.EndpointsConfig.*.IPv6Gateway", Told(REPEATED)),
    (
        "NetworkingConfig.EndpointsConfig.*.Links",
        Partly(
            "links_of_user_defined_networks_are_names",
            r#"{"NetworkingConfig":{"EndpointsConfig":{"bridge":{"Links":["a:b"]}}}}"#,
        ),
    ),
    ("NetworkingConfig.EndpointsConfig.*.MacAddress", Effect("the_network_is_as_asked")),
    ("NetworkingConfig.EndpointsConfig.*.NetworkID", Told(REPEATED)),
];

/// `POST /containers/{id}/update`, to a container that runs.
pub(crate) const UPDATE: &[(&str, Fate)] = &[
    ("BlkioDeviceReadBps", Refused(r#"{"BlkioDeviceReadBps":[{"Path":"/dev/vda","Rate":1}]}"#)),
    ("BlkioDeviceReadIOps", Refused(r#"{"BlkioDeviceReadIOps":[{"Path":"/dev/vda","Rate":1}]}"#)),
    ("BlkioDeviceWriteBps", Refused(r#"{"BlkioDeviceWriteBps":[{"Path":"/dev/vda","Rate":1}]}"#)),
    ("BlkioDeviceWriteIOps", Refused(r#"{"BlkioDeviceWriteIOps":[{"Path":"/dev/vda","Rate":1}]}"#)),
    ("BlkioWeight", Effect("block_devices_are_shared_by_weight")),
    ("BlkioWeightDevice", Refused(r#"{"BlkioWeightDevice":[{"Path":"/dev/vda","Weight":9}]}"#)),
    ("CgroupParent", Refused(r#"{"CgroupParent":"/x"}"#)),
    ("CpuCount", Refused(r#"{"CpuCount":1}"#)),
    ("CpuPercent", Refused(r#"{"CpuPercent":1}"#)),
    ("CpuPeriod", Effect("an_update_is_in_the_cgroup")),
    ("CpuQuota", Effect("an_update_is_in_the_cgroup")),
    ("CpuRealtimePeriod", Refused(r#"{"CpuRealtimePeriod":1}"#)),
    ("CpuRealtimeRuntime", Refused(r#"{"CpuRealtimeRuntime":1}"#)),
    ("CpuShares", Effect("an_update_is_in_the_cgroup")),
    ("CpusetCpus", Effect("an_update_is_in_the_cgroup")),
    ("CpusetMems", Effect("an_update_is_in_the_cgroup")),
    ("DeviceCgroupRules", Refused(r#"{"DeviceCgroupRules":["c 1:3 rwm"]}"#)),
    ("DeviceRequests", Refused(r#"{"DeviceRequests":[{"Count":-1}]}"#)),
    ("Devices", Refused(r#"{"Devices":[{"PathOnHost":"/dev/null"}]}"#)),
    ("IOMaximumBandwidth", Refused(r#"{"IOMaximumBandwidth":1}"#)),
    ("IOMaximumIOps", Refused(r#"{"IOMaximumIOps":1}"#)),
    ("Init", Refused(r#"{"Init":true}"#)),
    ("Memory", Effect("limits_hold")),
    ("MemoryReservation", Effect("an_update_is_in_the_cgroup")),
    ("MemorySwap", Effect("an_update_is_in_the_cgroup")),
    ("MemorySwappiness", Refused(r#"{"MemorySwappiness":20}"#)),
    ("NanoCpus", Effect("an_update_is_in_the_cgroup")),
    ("OomKillDisable", Refused(r#"{"OomKillDisable":true}"#)),
    ("PidsLimit", Effect("an_update_is_in_the_cgroup")),
    ("RestartPolicy.MaximumRetryCount", Effect("restart_policies_are_kept")),
    ("RestartPolicy.Name", Effect("restart_policies_are_kept")),
    ("Ulimits", Refused(r#"{"Ulimits":[{"Name":"nofile","Soft":1,"Hard":1}]}"#)),
];

/// `POST /containers/{id}/exec`.
pub(crate) const EXEC: &[(&str, Fate)] = &[
    ("AttachStderr", Effect("an_exec_is_as_asked")),
    ("AttachStdin", Effect("exec_joins_with_the_same_confinement")),
    ("AttachStdout", Effect("an_exec_is_as_asked")),
    ("Cmd", Effect("an_exec_is_as_asked")),
    ("ConsoleSize", Effect("an_exec_is_as_asked")),
    (
        "DetachKeys",
        Partly(
            "detach_keys_leave_the_process_alone_and_the_terminal_as_it_was",
            r#"{"Cmd":["true"],"DetachKeys":"ctrl-"}"#,
        ),
    ),
    ("Env", Effect("exec_joins_with_the_same_confinement")),
    ("Privileged", Effect("an_exec_is_as_asked")),
    ("Tty", Effect("an_exec_is_as_asked")),
    ("User", Effect("exec_joins_with_the_same_confinement")),
    ("WorkingDir", Effect("exec_joins_with_the_same_confinement")),
];

/// `POST /exec/{id}/start`.
pub(crate) const EXEC_START: &[(&str, Fate)] = &[
    ("ConsoleSize", Effect("an_exec_is_as_asked")),
    ("Detach", Effect("exec_joins_with_the_same_confinement")),
    ("Tty", Effect("output_of_execs_is_framed_as_their_readers_ask")),
];

/// `POST /networks/create`.
pub(crate) const NETWORK: &[(&str, Fate)] = &[
    ("Attachable", Told("every local network can be attached to; a swarm asks")),
    ("ConfigFrom.Network", Refused(r#"{"Name":"x","ConfigFrom":{"Network":"y"}}"#)),
    ("ConfigOnly", Refused(r#"{"Name":"x","ConfigOnly":true}"#)),
    (
        "Driver",
        Partly("containers_of_a_network_find_each_other_by_name", r#"{"Name":"x","Driver":"overlay"}"#),
    ),
    ("EnableIPv4", Refused(r#"{"Name":"x","EnableIPv4":false}"#)),
    ("EnableIPv6", Effect("a_network_has_ipv6")),
    ("IPAM.Config.AuxiliaryAddresses", Effect("a_network_is_as_asked")),
    ("IPAM.Config.Gateway", Effect("a_network_is_as_asked")),
    ("IPAM.Config.IPRange", Effect("a_network_is_as_asked")),
    ("IPAM.Config.Subnet", Effect("a_network_is_as_asked")),
    ("IPAM.Driver", Refused(r#"{"Name":"x","IPAM":{"Driver":"dhcp"}}"#)),
    ("IPAM.Options", Refused(r#"{"Name":"x","IPAM":{"Options":{"a":"b"}}}"#)),
    ("Ingress", Refused(r#"{"Name":"x","Ingress":true}"#)),
    ("Internal", Effect("a_network_is_as_asked")),
    ("Labels", Effect("containers_of_a_network_find_each_other_by_name")),
    ("Name", Effect("containers_of_a_network_find_each_other_by_name")),
    (
        "Options",
        Partly(
            "a_network_is_as_asked",
            r#"{"Name":"x","Options":{"com.docker.network.bridge.inhibit_ipv4":"true"}}"#,
        ),
    ),
    ("Scope", Refused(r#"{"Name":"x","Scope":"swarm"}"#)),
];

/// `POST /networks/{id}/connect`.
pub(crate) const CONNECT: &[(&str, Fate)] = &[
    ("Container", Effect("containers_of_a_network_find_each_other_by_name")),
    ("EndpointConfig.Aliases", Effect("containers_of_a_network_find_each_other_by_name")),
    ("EndpointConfig.DNSNames", Told(REPEATED)),
    (
        "EndpointConfig.DriverOpts",
        Partly(
            "an_endpoint_has_its_options",
            r#"{"Container":"box","EndpointConfig":{"DriverOpts":{"a":"b"}}}"#,
        ),
    ),
    ("EndpointConfig.EndpointID", Told(REPEATED)),
    ("EndpointConfig.Gateway", Told(REPEATED)),
    ("EndpointConfig.GlobalIPv6Address", Told(REPEATED)),
    ("EndpointConfig.GlobalIPv6PrefixLen", Told(REPEATED)),
    ("EndpointConfig.GwPriority", Effect("the_way_out_is_the_network_of_the_highest_priority")),
    ("EndpointConfig.IPAMConfig.IPv4Address", Effect("a_network_is_as_asked")),
    ("EndpointConfig.IPAMConfig.IPv6Address", Effect("a_network_has_ipv6")),
    ("EndpointConfig.IPAMConfig.LinkLocalIPs", Effect("an_endpoint_has_its_options")),
    ("EndpointConfig.IPAddress", Told(REPEATED)),
    ("EndpointConfig.IPPrefixLen", Told(REPEATED)),
    ("EndpointConfig.IPv6Gateway", Told(REPEATED)),
    (
        "EndpointConfig.Links",
        Partly(
            "links_of_user_defined_networks_are_names",
            r#"{"Container":"box","EndpointConfig":{"Links":["a:b"]}}"#,
        ),
    ),
    ("EndpointConfig.MacAddress", Effect("a_network_is_as_asked")),
    ("EndpointConfig.NetworkID", Told(REPEATED)),
];

/// `POST /networks/{id}/disconnect`.
pub(crate) const DISCONNECT: &[(&str, Fate)] = &[
    ("Container", Effect("containers_of_a_network_find_each_other_by_name")),
    ("Force", Effect("a_network_is_as_asked")),
];

/// `POST /volumes/create`.
pub(crate) const VOLUME: &[(&str, Fate)] = &[
    ("ClusterVolumeSpec", Refused(r#"{"ClusterVolumeSpec":{"Group":"g"}}"#)),
    ("Driver", Refused(r#"{"Driver":"flocker"}"#)),
    ("DriverOpts", Effect("a_volume_is_made_of_what_its_options_say")),
    ("Labels", Effect("volumes_keep_data_and_begin_with_the_image")),
    ("Name", Effect("volumes_keep_data_and_begin_with_the_image")),
];

/// All of them, by their calls.
pub(crate) const ALL: [(&str, &[(&str, Fate)]); 8] = [
    ("POST /containers/create", CREATE),
    ("POST /containers/{id}/update", UPDATE),
    ("POST /containers/{id}/exec", EXEC),
    ("POST /exec/{id}/start", EXEC_START),
    ("POST /networks/create", NETWORK),
    ("POST /networks/{id}/connect", CONNECT),
    ("POST /networks/{id}/disconnect", DISCONNECT),
    ("POST /volumes/create", VOLUME),
];
