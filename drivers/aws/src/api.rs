//! The calls of AWS' API that the driver makes: all of them, and the only way to make one.
//!
//! The clients are private to this module and every operation is declared once, in the list below. The policy that
//! `machine iam-policy aws` prints is made from that list, so that code and policy cannot drift apart: what is not in the
//! list cannot be called, and what is not called any more is an unused function, which fails the build.

use std::sync::atomic::{AtomicU64, Ordering};

use aws_sdk_ec2::{operation as ec2, types::Filter};
use aws_sdk_ssm::operation::get_parameter::builders::GetParameterFluentBuilder;

/// What a permission is limited to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// AWS has no finer permission for it than "all of the account".
    Account,
    /// New resources only, and only with our tags on them, using whatever the account has.
    Launch,
    /// New resources of this kind, and only with our tags on them.
    New(&'static str),
    /// Resources of these kinds that carry our tags.
    Ours(&'static [&'static str]),
    /// Instances that carry our tags; the security groups that they are given may be anybody's, as at their start.
    Membership,
    /// Tags, and only while one of these calls makes something.
    WhileMaking(&'static [&'static str]),
    /// AWS' own public parameters.
    PublicParameters,
    /// Passing the role of an instance profile to EC2.
    InstanceProfile,
}

macro_rules! calls {
    ($($call:ident, $method:ident, $builder:ty, $reach:expr;)*) => {
        /// A call that the driver makes, under AWS' own name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Call {
            GetParameter,
            $($call,)*
        }

        impl Call {
            pub(crate) const ALL: &[Self] = &[Self::GetParameter, $(Self::$call,)*];

            /// AWS' name of the operation.
            pub(crate) fn name(self) -> &'static str {
                match self {
                    Self::GetParameter => "GetParameter",
                    $(Self::$call => stringify!($call),)*
                }
            }

            /// The permission that it needs.
            pub(crate) fn action(self) -> &'static str {
                match self {
                    Self::GetParameter => "ssm:GetParameter",
                    $(Self::$call => concat!("ec2:", stringify!($call)),)*
                }
            }

            /// How far the permission has to reach.
            pub(crate) fn reach(self) -> Reach {
                match self {
                    Self::GetParameter => Reach::PublicParameters,
                    $(Self::$call => $reach,)*
                }
            }
        }

        impl Api {
            $(
                pub(crate) fn $method(&self) -> $builder {
                    self.count(Call::$call);
                    self.ec2.$method()
                }
            )*
        }
    };
}

calls! {
    AuthorizeSecurityGroupIngress, authorize_security_group_ingress,
        ec2::authorize_security_group_ingress::builders::AuthorizeSecurityGroupIngressFluentBuilder,
        Reach::Ours(&["security-group"]);
    CancelSpotInstanceRequests, cancel_spot_instance_requests,
        ec2::cancel_spot_instance_requests::builders::CancelSpotInstanceRequestsFluentBuilder,
        Reach::Ours(&["spot-instances-request"]);
    CreateSecurityGroup, create_security_group,
        ec2::create_security_group::builders::CreateSecurityGroupFluentBuilder,
        Reach::New("security-group");
    DeleteKeyPair, delete_key_pair, ec2::delete_key_pair::builders::DeleteKeyPairFluentBuilder,
        Reach::Ours(&["key-pair"]);
    DeleteSecurityGroup, delete_security_group,
        ec2::delete_security_group::builders::DeleteSecurityGroupFluentBuilder,
        Reach::Ours(&["security-group"]);
    DescribeImages, describe_images, ec2::describe_images::builders::DescribeImagesFluentBuilder,
        Reach::Account;
    DescribeInstanceTypeOfferings, describe_instance_type_offerings,
        ec2::describe_instance_type_offerings::builders::DescribeInstanceTypeOfferingsFluentBuilder,
        Reach::Account;
    DescribeInstanceTypes, describe_instance_types,
        ec2::describe_instance_types::builders::DescribeInstanceTypesFluentBuilder, Reach::Account;
    DescribeInstances, describe_instances, ec2::describe_instances::builders::DescribeInstancesFluentBuilder,
        Reach::Account;
    DescribeKeyPairs, describe_key_pairs, ec2::describe_key_pairs::builders::DescribeKeyPairsFluentBuilder,
        Reach::Account;
    DescribeNetworkInterfaces, describe_network_interfaces,
        ec2::describe_network_interfaces::builders::DescribeNetworkInterfacesFluentBuilder, Reach::Account;
    DescribeRegions, describe_regions, ec2::describe_regions::builders::DescribeRegionsFluentBuilder,
        Reach::Account;
    DescribeSecurityGroups, describe_security_groups,
        ec2::describe_security_groups::builders::DescribeSecurityGroupsFluentBuilder, Reach::Account;
    DescribeSpotInstanceRequests, describe_spot_instance_requests,
        ec2::describe_spot_instance_requests::builders::DescribeSpotInstanceRequestsFluentBuilder,
        Reach::Account;
    DescribeSubnets, describe_subnets, ec2::describe_subnets::builders::DescribeSubnetsFluentBuilder,
        Reach::Account;
    DescribeVpcs, describe_vpcs, ec2::describe_vpcs::builders::DescribeVpcsFluentBuilder, Reach::Account;
    GetConsoleOutput, get_console_output, ec2::get_console_output::builders::GetConsoleOutputFluentBuilder,
        Reach::Ours(&["instance"]);
    ImportKeyPair, import_key_pair, ec2::import_key_pair::builders::ImportKeyPairFluentBuilder,
        Reach::New("key-pair");
    ModifyInstanceAttribute, modify_instance_attribute,
        ec2::modify_instance_attribute::builders::ModifyInstanceAttributeFluentBuilder,
        Reach::Membership;
    RebootInstances, reboot_instances, ec2::reboot_instances::builders::RebootInstancesFluentBuilder,
        Reach::Ours(&["instance"]);
    RevokeSecurityGroupIngress, revoke_security_group_ingress,
        ec2::revoke_security_group_ingress::builders::RevokeSecurityGroupIngressFluentBuilder,
        Reach::Ours(&["security-group"]);
    RunInstances, run_instances, ec2::run_instances::builders::RunInstancesFluentBuilder, Reach::Launch;
    StartInstances, start_instances, ec2::start_instances::builders::StartInstancesFluentBuilder,
        Reach::Ours(&["instance"]);
    StopInstances, stop_instances, ec2::stop_instances::builders::StopInstancesFluentBuilder,
        Reach::Ours(&["instance"]);
    TerminateInstances, terminate_instances,
        ec2::terminate_instances::builders::TerminateInstancesFluentBuilder, Reach::Ours(&["instance"]);
}

/// Permissions that are checked although no call of that name is made: EC2 asks for them while it makes something.
pub(crate) const IMPLIED: [(&str, Reach); 2] = [
    ("ec2:CreateTags", Reach::WhileMaking(&["CreateSecurityGroup", "ImportKeyPair", "RunInstances"])),
    ("iam:PassRole", Reach::InstanceProfile),
];

/// A filter of a call that lists things: those whose `name` has one of the values.
pub(crate) fn filter(name: &str, values: impl IntoIterator<Item = impl Into<String>>) -> Filter {
    let values: Vec<String> = values.into_iter().map(Into::into).collect();
    Filter::builder().name(name).set_values(Some(values)).build()
}

/// The API of one account in one region.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) region: String,
    /// The profile that was named.
    pub(crate) profile: Option<String>,
    ec2: aws_sdk_ec2::Client,
    ssm: aws_sdk_ssm::Client,
    calls: AtomicU64,
}

impl Api {
    pub(crate) fn new(region: String, profile: Option<String>, config: &aws_config::SdkConfig) -> Self {
        Self {
            region,
            profile,
            ec2:
                aws_sdk_ec2::Client::from_conf(
                    aws_sdk_ec2::config::Builder::from(config)
                        .interceptor(crate::retries::Retries)
                        .retry_classifier(
                            crate::capacity::NoRetry::<ec2::run_instances::RunInstancesError>::new(),
                        )
                        .retry_classifier(
                            crate::capacity::NoRetry::<ec2::start_instances::StartInstancesError>::new(),
                        )
                        .build(),
                ),
            ssm: aws_sdk_ssm::Client::from_conf(
                aws_sdk_ssm::config::Builder::from(config).interceptor(crate::retries::Retries).build(),
            ),
            calls: AtomicU64::new(0),
        }
    }

    pub(crate) fn get_parameter(&self) -> GetParameterFluentBuilder {
        self.count(Call::GetParameter);
        self.ssm.get_parameter()
    }

    fn count(&self, call: Call) {
        let number = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::debug!(region = self.region, call = call.name(), number, "asking AWS");
    }
}
