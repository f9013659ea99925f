//! Every cmdlet that a script may use, with those of its parameters that are used, as Microsoft documents them.

use Takes::{Nothing, Something};

/// A cmdlet, as its page describes it.
#[derive(Debug)]
pub(crate) struct Cmdlet {
    /// With the module in front, where the script has it there: VMware's module has cmdlets of the same names.
    pub(crate) name: &'static str,
    #[allow(dead_code, reason = "for people, and for the test of this table")]
    pub(crate) source: &'static str,
    pub(crate) parameters: &'static [(&'static str, Takes)],
}

/// Whether a value follows a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    Nothing,
    Something,
}

macro_rules! page {
    ($module:literal, $page:literal) => {
        concat!("https://learn.microsoft.com/powershell/module/", $module, "/", $page)
    };
}

pub(crate) const CMDLETS: &[Cmdlet] = &[
    Cmdlet {
        name: "ConvertFrom-Json",
        source: page!("microsoft.powershell.utility", "convertfrom-json"),
        parameters: &[],
    },
    Cmdlet {
        name: "ConvertTo-Json",
        source: page!("microsoft.powershell.utility", "convertto-json"),
        parameters: &[("InputObject", Something), ("Depth", Something), ("Compress", Nothing)],
    },
    Cmdlet {
        name: "New-Object",
        source: page!("microsoft.powershell.utility", "new-object"),
        parameters: &[("TypeName", Something), ("ArgumentList", Something)],
    },
    Cmdlet {
        name: "Start-Sleep",
        source: page!("microsoft.powershell.utility", "start-sleep"),
        parameters: &[("Milliseconds", Something)],
    },
    Cmdlet { name: "Out-Null", source: page!("microsoft.powershell.core", "out-null"), parameters: &[] },
    Cmdlet {
        name: "Get-Module",
        source: page!("microsoft.powershell.core", "get-module"),
        parameters: &[("ListAvailable", Nothing), ("Name", Something)],
    },
    Cmdlet {
        name: "Get-Service",
        source: page!("microsoft.powershell.management", "get-service"),
        parameters: &[("Name", Something), ("ErrorAction", Something)],
    },
    Cmdlet {
        name: "Test-Path",
        source: page!("microsoft.powershell.management", "test-path"),
        parameters: &[("LiteralPath", Something)],
    },
    Cmdlet {
        name: "Remove-Item",
        source: page!("microsoft.powershell.management", "remove-item"),
        parameters: &[("LiteralPath", Something), ("Force", Nothing)],
    },
    Cmdlet {
        name: "Get-CimInstance",
        source: page!("cimcmdlets", "get-ciminstance"),
        parameters: &[("ClassName", Something)],
    },
    Cmdlet {
        name: "Get-NetNeighbor",
        source: page!("nettcpip", "get-netneighbor"),
        parameters: &[("ErrorAction", Something)],
    },
    Cmdlet { name: "Hyper-V\\Get-VMHost", source: page!("hyper-v", "get-vmhost"), parameters: &[] },
    Cmdlet { name: "Hyper-V\\Get-VMSwitch", source: page!("hyper-v", "get-vmswitch"), parameters: &[] },
    Cmdlet { name: "Hyper-V\\Get-VM", source: page!("hyper-v", "get-vm"), parameters: &[] },
    Cmdlet {
        name: "Hyper-V\\New-VHD",
        source: page!("hyper-v", "new-vhd"),
        parameters: &[
            ("Path", Something),
            ("SizeBytes", Something),
            ("Dynamic", Nothing),
            ("Differencing", Nothing),
            ("ParentPath", Something),
        ],
    },
    Cmdlet {
        name: "Hyper-V\\New-VM",
        source: page!("hyper-v", "new-vm"),
        parameters: &[
            ("Name", Something),
            ("Path", Something),
            ("Generation", Something),
            ("MemoryStartupBytes", Something),
            ("NoVHD", Nothing),
        ],
    },
    Cmdlet {
        name: "Hyper-V\\Set-VM",
        source: page!("hyper-v", "set-vm"),
        parameters: &[
            ("VM", Something),
            ("ProcessorCount", Something),
            ("DynamicMemory", Nothing),
            ("StaticMemory", Nothing),
            ("MemoryMinimumBytes", Something),
            ("MemoryMaximumBytes", Something),
            ("CheckpointType", Something),
            ("AutomaticStopAction", Something),
            ("Notes", Something),
        ],
    },
    Cmdlet {
        name: "Hyper-V\\Add-VMHardDiskDrive",
        source: page!("hyper-v", "add-vmharddiskdrive"),
        parameters: &[("VM", Something), ("Path", Something), ("Passthru", Nothing)],
    },
    Cmdlet {
        name: "Hyper-V\\Add-VMDvdDrive",
        source: page!("hyper-v", "add-vmdvddrive"),
        parameters: &[("VM", Something), ("Path", Something)],
    },
    Cmdlet {
        name: "Hyper-V\\Set-VMFirmware",
        source: page!("hyper-v", "set-vmfirmware"),
        parameters: &[("VM", Something), ("EnableSecureBoot", Something), ("FirstBootDevice", Something)],
    },
    Cmdlet {
        name: "Hyper-V\\Set-VMComPort",
        source: page!("hyper-v", "set-vmcomport"),
        parameters: &[("VM", Something), ("Number", Something), ("Path", Something)],
    },
    Cmdlet {
        name: "Hyper-V\\Get-VMNetworkAdapter",
        source: page!("hyper-v", "get-vmnetworkadapter"),
        parameters: &[("VM", Something)],
    },
    Cmdlet {
        name: "Hyper-V\\Connect-VMNetworkAdapter",
        source: page!("hyper-v", "connect-vmnetworkadapter"),
        parameters: &[("VMNetworkAdapter", Something), ("VMSwitch", Something)],
    },
    Cmdlet {
        name: "Hyper-V\\Set-VMNetworkAdapter",
        source: page!("hyper-v", "set-vmnetworkadapter"),
        parameters: &[("VMNetworkAdapter", Something), ("StaticMacAddress", Something)],
    },
    Cmdlet {
        name: "Hyper-V\\Set-VMNetworkAdapterVlan",
        source: page!("hyper-v", "set-vmnetworkadaptervlan"),
        parameters: &[("VMNetworkAdapter", Something), ("Access", Nothing), ("VlanId", Something)],
    },
    Cmdlet {
        name: "Hyper-V\\Start-VM",
        source: page!("hyper-v", "start-vm"),
        parameters: &[("VM", Something)],
    },
    Cmdlet {
        name: "Hyper-V\\Resume-VM",
        source: page!("hyper-v", "resume-vm"),
        parameters: &[("VM", Something)],
    },
    Cmdlet {
        name: "Hyper-V\\Stop-VM",
        source: page!("hyper-v", "stop-vm"),
        parameters: &[("VM", Something), ("TurnOff", Nothing), ("Force", Nothing)],
    },
    Cmdlet {
        name: "Hyper-V\\Remove-VM",
        source: page!("hyper-v", "remove-vm"),
        parameters: &[("VM", Something), ("Force", Nothing)],
    },
    Cmdlet {
        name: "Hyper-V\\Remove-VMSavedState",
        source: page!("hyper-v", "remove-vmsavedstate"),
        parameters: &[("VM", Something)],
    },
];

/// Names are the same in every case.
pub(crate) fn find(name: &str) -> Option<&'static Cmdlet> {
    CMDLETS.iter().find(|cmdlet| cmdlet.name.eq_ignore_ascii_case(name))
}

impl Cmdlet {
    pub(crate) fn parameter(&self, name: &str) -> Option<(&'static str, Takes)> {
        self.parameters.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).copied()
    }
}
