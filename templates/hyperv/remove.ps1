# Takes the VM out of Hyper-V, running or not. Its files are left to whoever asked.
function Invoke-Operation($Request) {
    Assert-Rights
    Enter-Turn $Request.turn $Request.patience
    $clock = [System.Diagnostics.Stopwatch]::StartNew()
    $trouble = $null
    while ($true) {
        $vm = Find-Machine $Request.machine
        if ($null -eq $vm) { return @{ state = $null } }
        $state = [string]$vm.State
        if ($clock.ElapsedMilliseconds -ge $Request.limit) {
            if ($null -ne $trouble) { throw $trouble }
            return @{ state = $state }
        }
        try {
            if ($state -eq 'Off' -or $state -eq 'Saved') {
                Hyper-V\Remove-VM -VM $vm -Force
            } else {
                Hyper-V\Stop-VM -VM $vm -TurnOff -Force
            }
        } catch {
            # It may be between two states; rights do not come by waiting.
            if ([string]$_.CategoryInfo.Category -eq 'PermissionDenied') { throw $_ }
            $trouble = $_
            Start-Sleep -Milliseconds $Request.pause
        }
    }
}
