# Makes the VM with its disks, all of it or, at the next try, anew: its notes are written last, and say that it is whole.
function Invoke-Operation($Request) {
    Assert-Rights
    Enter-Turn $Request.turn $Request.patience
    $vm = Find-Machine $Request.machine
    if ($null -ne $vm) {
        if ($vm.Notes -ceq $Request.notes) { return @{ id = [string]$vm.Id } }
        # Left half-made by a run that was killed: it never ran.
        Hyper-V\Remove-VM -VM $vm -Force
    }
    $network = Find-Network $Request.network
    foreach ($disk in @($Request.disks)) {
        if (Test-Path -LiteralPath $disk.path) { Remove-Item -LiteralPath $disk.path -Force }
        if ($null -eq $disk.parent) {
            Hyper-V\New-VHD -Path $disk.path -Dynamic -SizeBytes $disk.size | Out-Null
        } elseif ($null -eq $disk.size) {
            Hyper-V\New-VHD -Path $disk.path -Differencing -ParentPath $disk.parent | Out-Null
        } else {
            Hyper-V\New-VHD -Path $disk.path -Differencing -ParentPath $disk.parent -SizeBytes $disk.size | Out-Null
        }
    }
    $vm = Hyper-V\New-VM -Name $Request.machine.name -Path $Request.folder -Generation 2 -MemoryStartupBytes $Request.memory -NoVHD
    if ($Request.dynamic) {
        Hyper-V\Set-VM -VM $vm -DynamicMemory -MemoryMinimumBytes $Request.least -MemoryMaximumBytes $Request.memory
    } else {
        Hyper-V\Set-VM -VM $vm -StaticMemory
    }
    Hyper-V\Set-VM -VM $vm -ProcessorCount $Request.processors -CheckpointType Disabled -AutomaticStopAction ShutDown
    $first = $null
    foreach ($disk in @($Request.disks)) {
        $drive = Hyper-V\Add-VMHardDiskDrive -VM $vm -Path $disk.path -Passthru
        if ($null -eq $first) { $first = $drive }
    }
    Hyper-V\Add-VMDvdDrive -VM $vm -Path $Request.seed
    Hyper-V\Set-VMFirmware -VM $vm -EnableSecureBoot Off -FirstBootDevice $first
    Hyper-V\Set-VMComPort -VM $vm -Number 1 -Path $Request.console
    $adapter = @(Hyper-V\Get-VMNetworkAdapter -VM $vm)[0]
    Hyper-V\Connect-VMNetworkAdapter -VMNetworkAdapter $adapter -VMSwitch $network
    if ($null -ne $Request.mac) {
        Hyper-V\Set-VMNetworkAdapter -VMNetworkAdapter $adapter -StaticMacAddress $Request.mac
    }
    if ($null -ne $Request.vlan) {
        Hyper-V\Set-VMNetworkAdapterVlan -VMNetworkAdapter $adapter -Access -VlanId $Request.vlan
    }
    Hyper-V\Set-VM -VM $vm -Notes $Request.notes
    return @{ id = [string]$vm.Id }
}
