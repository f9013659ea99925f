//! How an instance is asked for. Nothing that is made with it outlives it.

use aws_sdk_ec2::{
    operation::run_instances::builders::RunInstancesFluentBuilder,
    types::{
        BlockDeviceMapping, EbsBlockDevice, HttpTokensState, IamInstanceProfileSpecification,
        InstanceMarketOptionsRequest, InstanceMetadataEndpointState, InstanceMetadataOptionsRequest,
        InstanceNetworkInterfaceSpecification, MarketType, Placement, ResourceType,
        RunInstancesMonitoringEnabled, SpotInstanceType, SpotMarketOptions, Tenancy, VolumeType,
    },
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use machine_driver::{DriverError, HostView};

use crate::{
    config::Config,
    region::Region,
    state::{Launch, Plan},
    tags, user_data,
};

/// Containers are a hop further away than the host, and have no business with its role.
const METADATA_HOPS: i32 = 1;

/// Everything about the instance but its groups, its key and its token.
pub(crate) fn request(
    region: &Region,
    host: &HostView,
    config: &Config,
    plan: &Plan,
    launch: Launch,
) -> Result<(RunInstancesFluentBuilder, InstanceNetworkInterfaceSpecification), DriverError> {
    let place = plan.places.get(launch.place).or_else(|| plan.places.last()).ok_or_else(|| {
        DriverError::failed(format!("The record of `{}` names no subnet for its instance", host.name))
            .with_hint(format!("Remove the host with `machine rm {}` and create it again", host.name))
    })?;
    let tags = tags::of_host(host, &config.tags);
    let root = &config.root;
    let disk = EbsBlockDevice::builder()
        .delete_on_termination(true)
        .volume_size(root.size)
        .volume_type(VolumeType::from(root.kind.as_str()))
        .encrypted(root.encrypted)
        .set_iops(root.iops)
        .set_throughput(root.throughput)
        .set_kms_key_id(root.kms_key.clone());
    let device = root.device.clone().unwrap_or_else(|| plan.image.root_device.clone());
    // Other disks of the image, whatever it says of them, go with the instance as well.
    let others = plan.image.other_devices.iter().filter(|name| **name != device).map(|name| {
        let disk = EbsBlockDevice::builder().delete_on_termination(true).build();
        BlockDeviceMapping::builder().device_name(name).ebs(disk).build()
    });
    let interface = InstanceNetworkInterfaceSpecification::builder()
        .device_index(0)
        .subnet_id(&place.subnet)
        .associate_public_ip_address(!config.private_only)
        .delete_on_termination(true)
        .set_ipv6_address_count(config.ipv6.then_some(1))
        .build();
    let mut request = region
        .api
        .run_instances()
        .min_count(1)
        .max_count(1)
        .image_id(&plan.image.id)
        .instance_type(config.instance_type.as_str().into())
        .block_device_mappings(BlockDeviceMapping::builder().device_name(&device).ebs(disk.build()).build())
        .metadata_options(
            InstanceMetadataOptionsRequest::builder()
                .http_endpoint(InstanceMetadataEndpointState::Enabled)
                .http_tokens(HttpTokensState::Required)
                .http_put_response_hop_limit(METADATA_HOPS)
                .build(),
        )
        .monitoring(RunInstancesMonitoringEnabled::builder().enabled(config.monitoring).build())
        .disable_api_termination(config.termination_protection);
    for mapping in others {
        request = request.block_device_mappings(mapping);
    }
    for kind in [ResourceType::Instance, ResourceType::Volume, ResourceType::NetworkInterface] {
        request = request.tag_specifications(tags::on(kind, &tags));
    }
    if launch.spot {
        let price = config.spot.as_ref().and_then(|spot| spot.price.clone());
        let spot = SpotMarketOptions::builder()
            .set_max_price(price)
            .spot_instance_type(SpotInstanceType::OneTime)
            .build();
        request = request
            .tag_specifications(tags::on(ResourceType::SpotInstancesRequest, &tags))
            .instance_market_options(
                InstanceMarketOptionsRequest::builder()
                    .market_type(MarketType::Spot)
                    .spot_options(spot)
                    .build(),
            );
    }
    if config.ebs_optimized {
        request = request.ebs_optimized(true);
    }
    if config.tenancy.is_some() || config.placement_group.is_some() {
        let placement = Placement::builder()
            .availability_zone(&place.zone)
            .set_group_name(config.placement_group.clone())
            .set_tenancy(config.tenancy.as_deref().map(Tenancy::from))
            .build();
        request = request.placement(placement);
    }
    if let Some(profile) = &config.instance_profile {
        let named = IamInstanceProfileSpecification::builder();
        let named = if profile.starts_with("arn:") { named.arn(profile) } else { named.name(profile) };
        request = request.iam_instance_profile(named.build());
    }
    if let Some(data) = user_data::of_host(host, config)? {
        request = request.user_data(STANDARD.encode(data));
    }
    Ok((request, interface))
}
