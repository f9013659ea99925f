# Starts the VM, or lets it go on, and waits until it runs.
function Invoke-Operation($Request) {
    Assert-Rights
    Enter-Turn $Request.turn $Request.patience
    $state = ''
    for ($try = 0; $try -lt $Request.tries; $try += 1) {
        $vm = Find-Machine $Request.machine
        if ($null -eq $vm) { return @{ state = $null } }
        $state = [string]$vm.State
        if ($state -eq 'Running') { return @{ state = $state } }
        if ($state -eq 'Off' -or $state -eq 'Saved') {
            Hyper-V\Start-VM -VM $vm
        } elseif ($state -eq 'Paused') {
            Hyper-V\Resume-VM -VM $vm
        } else {
            Start-Sleep -Milliseconds $Request.pause
        }
    }
    return @{ state = $state }
}
