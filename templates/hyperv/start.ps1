# Starts the VM, or lets it go on, and waits until it runs.
function Invoke-Operation($Request) {
    Assert-Rights
    Enter-Turn $Request.turn $Request.patience
    $clock = [System.Diagnostics.Stopwatch]::StartNew()
    while ($true) {
        $vm = Find-Machine $Request.machine
        if ($null -eq $vm) { return @{ state = $null } }
        $state = [string]$vm.State
        if ($state -eq 'Running' -or $clock.ElapsedMilliseconds -ge $Request.limit) { return @{ state = $state } }
        if ($state -eq 'Off' -or $state -eq 'Saved') {
            Hyper-V\Start-VM -VM $vm
        } elseif ($state -eq 'Paused') {
            Hyper-V\Resume-VM -VM $vm
        } else {
            Start-Sleep -Milliseconds $Request.pause
        }
    }
}
