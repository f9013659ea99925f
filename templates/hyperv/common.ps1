# What every operation is made of: its answer, its failure, whether it may, and how a VM is found.
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$WarningPreference = 'SilentlyContinue'
# Nobody is there to confirm anything.
$ConfirmPreference = 'None'

# Bytes, so that neither the console's code page nor the version of PowerShell matters.
function Send-Answer($Answer) {
    $text = ConvertTo-Json -InputObject $Answer -Depth 10 -Compress
    $bytes = [System.Text.Encoding]::UTF8.GetBytes($text)
    $output = [System.Console]::OpenStandardOutput()
    $output.Write($bytes, 0, $bytes.Length)
    $output.Flush()
}

function Send-Refusal($Kind, $Names) {
    Send-Answer @{ error = @{ kind = $Kind; names = @($Names) } }
    exit
}

# Texts are in the system's language: what counts is the identifier, the category and the code.
function Send-Failure($Failure) {
    $cause = $Failure.Exception
    while ($null -ne $cause.InnerException) { $cause = $cause.InnerException }
    $category = [string]$Failure.CategoryInfo.Category
    Send-Answer @{ error = @{ kind = 'failed'; id = $Failure.FullyQualifiedErrorId; category = $category
        code = $cause.HResult; text = $Failure.Exception.Message } }
}

# Without the rights, some lists are just empty: nothing may be taken for gone because of that.
function Assert-Rights {
    $user = [System.Security.Principal.WindowsIdentity]::GetCurrent()
    $principal = New-Object -TypeName System.Security.Principal.WindowsPrincipal -ArgumentList $user
    foreach ($group in 'S-1-5-32-544', 'S-1-5-32-578') {
        $sid = New-Object -TypeName System.Security.Principal.SecurityIdentifier -ArgumentList $group
        if ($principal.IsInRole($sid)) { return }
    }
    Send-Refusal 'rights' @()
}

# The run of a command that was killed may still be at work: one for each host at a time. Ends with the process.
function Enter-Turn($Turn, $Milliseconds) {
    $script:turn = New-Object -TypeName System.Threading.Mutex -ArgumentList $false, "Global\machine-$Turn"
    try {
        $free = $script:turn.WaitOne($Milliseconds)
    } catch [System.Threading.AbandonedMutexException] {
        $free = $true
    }
    if (-not $free) { Send-Refusal 'busy' @() }
}

# By the id that Hyper-V gave it or else by its name. One of docker-machine has to lie in its host's folder as well.
function Test-Machine($Vm, $Machine) {
    if ([string]$Vm.Id -eq $Machine.id) { return $true }
    if ($Vm.Name -cne $Machine.name) { return $false }
    if ($null -eq $Machine.within) { return $true }
    return $Vm.Path.StartsWith($Machine.within, 'OrdinalIgnoreCase')
}

function Find-Machine($Machine) {
    foreach ($vm in @(Hyper-V\Get-VM)) {
        if (Test-Machine $vm $Machine) { return $vm }
    }
}

# Without a name, the one that Windows itself makes, whose name is in the system's language and whose id is always this.
function Find-Network($Name) {
    $names = @()
    foreach ($network in @(Hyper-V\Get-VMSwitch)) {
        $names += $network.Name
        if ($null -ne $Name) {
            if ($network.Name -eq $Name) { return $network }
        } elseif ([string]$network.Id -eq 'c08cb7b8-9b3c-408e-8e30-5e16a3aeb444') {
            return $network
        }
    }
    Send-Refusal 'network' $names
}

# Addresses as the guest tells them, and as this machine's neighbour table has them for the first adapter.
function Get-Facts($Vm, $Neighbours) {
    $mac = ''
    $addresses = @()
    $near = @()
    foreach ($adapter in @(Hyper-V\Get-VMNetworkAdapter -VM $Vm)) {
        if ($mac -eq '') {
            $mac = [string]$adapter.MacAddress
            $addresses = @($adapter.IPAddresses)
        }
    }
    # An adapter that never ran has zeros, as has a neighbour that never answered.
    if ($mac -eq '000000000000') { $mac = '' }
    foreach ($neighbour in $Neighbours) {
        $there = ([string]$neighbour.LinkLayerAddress).Replace('-', '')
        if ($mac -ne '' -and $there -eq $mac) {
            $near += @{ address = $neighbour.IPAddress; state = [string]$neighbour.State }
        }
    }
    return @{ id = [string]$Vm.Id; state = [string]$Vm.State; addresses = $addresses; neighbours = $near }
}
