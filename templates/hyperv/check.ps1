# Whether VMs can be made here, and what there is to make them of.
function Invoke-Operation($Request) {
    $modules = @(Get-Module -ListAvailable -Name Hyper-V)
    if ($modules.Count -eq 0) { Send-Refusal 'module' @() }
    $service = Get-Service -Name vmms -ErrorAction SilentlyContinue
    if ($null -eq $service) { Send-Refusal 'feature' @() }
    $computer = Get-CimInstance -ClassName Win32_ComputerSystem
    if (-not $computer.HypervisorPresent) { Send-Refusal 'hypervisor' @() }
    if ([string]$service.Status -ne 'Running') { Send-Refusal 'service' @() }
    Assert-Rights
    $network = Find-Network $Request.network
    $limits = Hyper-V\Get-VMHost
    return @{ network = $network.Name; processors = $limits.LogicalProcessorCount; memory = $limits.MemoryCapacity }
}
